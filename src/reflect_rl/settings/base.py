"""The base class of settings groups: unknown keys are refused, and all values are representable in JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

MOST_DEEP = 50
"""Maximum nesting of mappings and lists in `env.options`."""


class Section(BaseModel):
    """A group of settings: unknown keys are refused, types are not coerced, and instances are frozen.

    All values are representable in JSON, so a later command that reads them from a file gets the same values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        _check_json(value, [])
        return value


_WHY = {
    str: "has bytes that are no text",
    int: "is a number of too many digits",
    float: "is infinite or not a number, which JSON does not have",
}


def _check_json(value: object, place: list[str]) -> None:
    """Raise ValueError, which names the place within the setting, unless JSON can represent the value."""
    at = f"{'.'.join(place)} " if place else "it "
    if len(place) > MOST_DEEP:
        raise ValueError(f"more than {MOST_DEEP} mappings and lists are nested in each other; make it flatter")
    if type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise ValueError(f"{at}has the key {key!r}, which is no text; put it in quotes")
            _check_json(key, [*place, "a key"])
            _check_json(each, [*place, key])
    elif type(value) is list:
        for number, each in enumerate(value):
            _check_json(each, [*place, str(number)])
    elif isinstance(value, Section):
        pass  # already validated
    elif type(value) not in (str, int, float, bool, type(None)):
        kind = type(value).__name__
        raise ValueError(f"{at}is a {kind}; give text, a number, true, false, null, a list or a mapping, as JSON has")
    else:
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except ValueError as error:
            raise ValueError(f"{at}{_WHY[type(value)]}; give another value") from error
