"""How a user's id looks in bytes that nobody has parsed: raw records, lines of logs."""

from __future__ import annotations

import json
import re

_IN_A_WORD = "A-Za-z0-9_-"
_PLAIN_DIGITS = 6  # a number this long is an id wherever it stands


def spellings(user_id: str) -> list[str]:
    """The id as it is, and as JSON writes it."""
    forms = {user_id, json.dumps(user_id)[1:-1], json.dumps(user_id, ensure_ascii=False)[1:-1]}
    return sorted(forms, key=len, reverse=True)


def as_a_word(user_id: str) -> str:
    """A regular expression for the id as a whole word, for Java's, RE2's and Python's engine."""
    either = "|".join(re.escape(form) for form in spellings(user_id))
    return f"(^|[^{_IN_A_WORD}])({either})($|[^{_IN_A_WORD}])"


def in_logs(user_id: str, user_key: int) -> re.Pattern[bytes]:
    """The id and the key in a log; the group `who` is what to overwrite.

    A short number may be anything in a log (a count, a port): it counts as an id in quotes, or
    after a word with "user" in it.
    """
    forms = b"|".join(re.escape(form.encode()) for form in spellings(user_id))
    key = re.escape(str(user_key).encode())
    if user_id.isdigit() and len(user_id) < _PLAIN_DIGITS:
        before = rb"(?:user\w*[^\w\n]{1,3}|['\"])"
        return re.compile(
            rb"(?i:%s)(?P<who>%s)(?![\w-])|(?<!\d)(?P<key>%s)(?!\d)" % (before, forms, key)
        )
    return re.compile(rb"(?<![\w-])(?P<who>%s)(?![\w-])|(?<!\d)(?P<key>%s)(?!\d)" % (forms, key))
