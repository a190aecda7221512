"""A recipe with other settings, as people write them: `loop.temperature=1`, `model.zero=false`.

A value is JSON or plain text and must fit the setting's type. A part is changed by its settings
(`loop.mix.low=0` where there was none gives one) or by all of them at once, as JSON, the rest at
their defaults (`loop.negatives={"batch": false, "each": 16}`), left out by `null`, and put in
another's place by the name of its class (`loop.optimiser=AdamConfig`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from pagoda.errors import InputError
from training.recipes import Recipe


def overridden(recipe: Recipe, given: Iterable[str]) -> Recipe:
    """The recipe with these settings, one after the other; its name stays.

    Raises: InputError naming every setting that is not there or does not fit.
    """
    problems: list[str] = []
    for each in given:
        path, there, text = each.partition("=")
        if not there:
            problems.append(f"{each}: it has no value")
            continue
        try:
            recipe = _changed(recipe, path.split("."), text)
        except ValidationError as error:
            problems += [f"{each}: {found['msg']}" for found in error.errors()]
        except (ValueError, TypeError) as error:
            problems.append(f"{each}: {error}")
    if problems:
        raise InputError(
            "the recipe cannot be changed so",
            expected="NAME=VALUE, as loop.temperature=1",
            problems=problems,
            next_step="docs/models names the settings; they are applied in the order given.",
        )
    return recipe


def _changed(part: Any, path: list[str], text: str) -> Any:
    """The part with one setting of it, or of a part of it, changed."""
    name, *further = path
    kind = _kind(type(part), name)
    if not further:
        return replace(part, **{name: _read(kind, text)})
    inner = getattr(part, name)
    if is_dataclass(inner):
        return replace(part, **{name: _changed(inner, further, text)})
    classes = list(_parts(kind))
    if inner is not None or not classes:
        raise ValueError(f"{name} is {inner!r}: it has no settings")
    if len(classes) > 1 or len(further) > 1:
        named = " or ".join(each.__name__ for each in classes)
        raise ValueError(f"{name} is left out: give {name}={named} first")
    (new,), (first,) = classes, further
    return replace(part, **{name: new(**{first: _read(_kind(new, first), text)})})


def _kind(part: type[Any], name: str) -> Any:
    """The type of a part's setting."""
    there = [each.name for each in fields(part) if (part, each.name) != (Recipe, "name")]
    if name not in there:
        raise ValueError(f"no setting {name!r}; there are {', '.join(there)}")
    return get_type_hints(part)[name]


def _read(kind: Any, text: str) -> Any:
    """A value of that type."""
    parts = {each.__name__: each for each in _parts(kind)}
    if text in parts:
        return parts[text]()
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return _fitted(kind, value)


def _fitted(kind: Any, value: Any) -> Any:
    """The value as that type; a part's settings are looked at one by one."""
    parts = list(_parts(kind))
    if isinstance(value, dict) and len(parts) == 1:
        (new,) = parts
        return new(**{name: _fitted(_kind(new, name), each) for name, each in value.items()})
    if parts and value is not None:
        named = ", ".join(each.__name__ for each in parts)
        raise ValueError(f"this is a part: one of {named}, whose settings follow")
    return TypeAdapter(kind).validate_python(value)


def _parts(kind: Any) -> Iterator[type[Any]]:
    """The classes of settings that a value may be of."""
    return (
        each
        for each in (get_args(kind) or (kind,))
        if isinstance(each, type) and is_dataclass(each)
    )
