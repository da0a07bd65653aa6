"""Long work on two cores: kernels let the interpreter go, so a second thread runs one half."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
HALVED_FROM = 100_000
"""Rows from which it pays: a thread's start is about 0.1 ms, a search among so many takes several."""


def in_halves(work: Callable[[slice], T], count: int, rows: int) -> list[T]:
    """The results of `work` on the halves of `count` things, done at the same time; on all of them as one where `rows`, how
    many rows that is about, is below HALVED_FROM. Raises what it raised. Halves must not write to the same bytes."""
    if rows < HALVED_FROM:
        return [work(slice(0, count))]
    with ThreadPoolExecutor(1, "half") as other:
        second = other.submit(work, slice(count // 2, count))
        return [work(slice(0, count // 2)), second.result()]
