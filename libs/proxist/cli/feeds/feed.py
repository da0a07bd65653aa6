"""What a format must do, and the batch that it yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from proxist.model.table import TableSpec


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Rows of one table in the feed's order. `first_ns`/`last_ns`: times of its first and last row, for pacing.

    `position` is how many bytes of the file were read when the batch was cut: progress, nothing else.
    """

    table: str
    rows: pa.RecordBatch
    first_ns: int
    position: int


class Feed(Protocol):
    """One open file. `batches()` yields the same batches in the same order every time for the same file."""

    tables: dict[str, TableSpec]
    """The tables that its rows go to, for those that are not there yet; empty where the feed cannot know them."""

    def batches(self) -> Iterator[FeedBatch]: ...
