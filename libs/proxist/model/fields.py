"""Reading a JSON object field by field, with errors that name field, value, rule and remedy."""

from __future__ import annotations

import json
from typing import Any

from proxist.errors import InvalidArgument
from proxist.model.ids import TimeNs
from proxist.model.units import parse_duration_ns, parse_time_ns


class Fields:
    """Takes the fields of one JSON object one by one; `refuse_rest` names what was not taken.

    Each getter gives None for an absent or null field, unless it says otherwise. All raise InvalidArgument.
    """

    def __init__(self, wire: Any, subject: str) -> None:
        if not isinstance(wire, dict):
            raise InvalidArgument(f"{subject} is {json.dumps(wire)[:80]}, but must be a JSON object.")
        self.wire = wire
        self._left = dict(wire)
        self._subject = subject
        self._known: list[str] = []

    def take(self, name: str) -> Any:
        self._known.append(name)
        return self._left.pop(name, None)

    def refuse_rest(self) -> None:
        if self._left:
            raise InvalidArgument(
                f"{self._subject} has the unknown field {next(iter(self._left))!r}. Known fields are {', '.join(self._known)}."
            )

    def wrong(self, name: str, value: Any, rule: str) -> InvalidArgument:
        """The error for a value that breaks the field's rule."""
        return InvalidArgument(f"`{name}` of {self._subject} is {json.dumps(value)[:80]}, but must be {rule}.")

    def name(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, value, "a table's name")
        return value

    def names(self, name: str) -> tuple[str, ...] | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(name, value, "a list of strings")
        return tuple(value)

    def time(self, name: str) -> TimeNs | None:
        value = self.take(name)
        return None if value is None else parse_time_ns(value, f"`{name}` of {self._subject}")

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.take(name)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self.wrong(name, value, f"one of {', '.join(choices)}")
        return str(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def duration(self, name: str) -> int | None:
        """Nanoseconds; at least 1, and no more than 64 bits count."""
        value = self.take(name)
        if value is None:
            return None
        parsed = parse_duration_ns(value, f"`{name}` of {self._subject}")
        if not 1 <= parsed < 2**63:
            raise self.wrong(name, value, "a duration from 1 ns to 292 years")
        return parsed

    def count(self, name: str, least: int = 0, most: int = 2**63 - 1) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(name, value, f"an integer from {least} to {most}")
        return value

    def objects(self, name: str) -> list[Fields]:
        """A list of at least one object."""
        value = self.take(name)
        if not isinstance(value, list) or not value:
            raise self.wrong(name, value, "a list of at least one object")
        return [Fields(one, f"`{name}[{at}]` of {self._subject}") for at, one in enumerate(value)]
