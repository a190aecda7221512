"""Chinese words, by jieba: loaded when the first Han characters come, and quietly."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any


def words_of(run: str) -> list[str]:
    """Cut neighbouring Han characters into words; joined they are the run again.

    What the dictionary lacks jieba guesses: in a catalogue mostly brands (特仑苏, 珀莱雅).
    """
    return list(_jieba().cut(run))


@cache
def _jieba() -> Any:
    """A second's work, and some 100 MB.

    jieba itself would keep its dictionary as a marshalled file in the folder for temporary files,
    which others can write to, trust what it finds there, and log all of that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in its patterns that Python 3.12 complains about
        import jieba
    loaded = jieba.Tokenizer()
    loaded.FREQ, loaded.total = loaded.gen_pfdict(loaded.get_dict_file())
    loaded.initialized = True
    return loaded
