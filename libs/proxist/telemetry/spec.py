"""What one metric is: name, kind, help, labels, buckets, and whose page it is on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric. `roles`: the programs whose page has it. `buckets`: of a histogram only."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    roles: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    @property
    def page_name(self) -> str:
        """As /metrics says it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its samples."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.page_name,)


_ALL: dict[str, Spec] = {}


def _spec(spec: Spec) -> Spec:
    assert spec.name not in _ALL, spec.name
    _ALL[spec.name] = spec
    return spec


def counter(name: str, text: str, *labels: str, roles: tuple[str, ...]) -> Spec:
    return _spec(Spec(name, "counter", text, labels, roles))


def gauge(name: str, text: str, *labels: str, roles: tuple[str, ...]) -> Spec:
    return _spec(Spec(name, "gauge", text, labels, roles))


def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str, roles: tuple[str, ...]) -> Spec:
    return _spec(Spec(name, "histogram", text, labels, roles, buckets))


def all_specs() -> list[Spec]:
    """Every metric, in the order of this file."""
    return list(_ALL.values())


def specs_of(role: str) -> Iterator[Spec]:
    """The metrics on the page of one program."""
    return (spec for spec in _ALL.values() if role in spec.roles)
