"""HotSet: the owner's side of a shard's hot set. One writer thread; readers come through `HotReader`."""

from __future__ import annotations

from types import TracebackType

import pyarrow as pa

from proxist.hot.ops import Marks
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.table import DEFAULT_TENANT, TableSpec


class HotSet:
    """The resident rows of one shard under one epoch, in shared memory that this object owns.

    All methods are for one thread at a time, except `reader`, `marks`, `readonly_fd` and what readers do.
    """

    @classmethod
    def create(
        cls,
        spec: TableSpec,
        shard: ShardId,
        epoch: Epoch,
        start: Offset,
        *,
        tenant: str = DEFAULT_TENANT,
        hot_bytes: int | None = None,
    ) -> HotSet:
        """An empty hot set: floor = persisted = end = `start`, lease 0 (readers refuse until `set_lease_until`).

        `start` above 0 says that rows exist below it which this hot set never saw: then nothing that could depend on
        them is decided by RAM alone (every operation reports cold need).
        `hot_bytes` bounds blocks and payloads of this shard; default `spec.hot_bytes` shared out over its shards.
        """
        raise NotImplementedError

    def has_room(self, *batches: pa.RecordBatch) -> bool:
        """True: appending all of `batches`, in order, with no eviction between, will not raise Overloaded.

        False: evict, then ask again. Changes nothing.
        """
        raise NotImplementedError

    def append(self, batch: pa.RecordBatch, first: Offset, arrived_ns: int) -> Offset:
        """Take the rows of `batch` as offsets [first, first + rows); returns the new appended end.

        The batch was validated (full) and has the table's columns, by name, in any order. Rows are not visible before
        `publish`. `first` must be the appended end (ValueError). Raises Overloaded, with nothing changed, where room
        is lacking; SchemaMismatch or InvalidBatch (null in a column that is not nullable), with nothing changed.
        The batch may be dropped afterwards: everything is copied.
        """
        raise NotImplementedError

    def publish(self, end: Offset) -> None:
        """Make the rows below `end` visible to readers that start from now on. `end` never goes back (ValueError)."""
        raise NotImplementedError

    def set_persisted(self, offset: Offset) -> None:
        """Rows below `offset` are confirmed in ClickHouse. A lower value than before is ignored."""
        raise NotImplementedError

    def set_lease_until(self, monotonic_ns: int) -> None:
        """Readers answer only before this instant of CLOCK_MONOTONIC; 0 stops them at once."""
        raise NotImplementedError

    def evict(self, floor: Offset) -> Offset:
        """Move the floor to min(floor, persisted), freeing memory; returns the floor reached.

        Never goes back. Works in `evict_step`s; a reader's pin makes it stop early.
        """
        raise NotImplementedError

    def evict_step(self, floor: Offset, rows_max: int = 65_536) -> Offset:
        """As `evict`, but moves by at most `rows_max` rows, so that appends wait a few ms at most."""
        raise NotImplementedError

    def floor_before_time(self, time_ns: TimeNs) -> Offset:
        """The largest floor (at most `persisted`) below which every resident row has a time < `time_ns`."""
        raise NotImplementedError

    def floor_keeping(self, rows: int) -> Offset:
        """The floor (at most `persisted`) that keeps the newest `rows` rows resident."""
        raise NotImplementedError

    def floor_due(self, now_ns: int) -> Offset:
        """The floor (at most `persisted`) that the hot window asks for: batches that arrived before now - window go."""
        raise NotImplementedError

    def marks(self) -> Marks:
        """Where the shard stands. Works whatever the lease."""
        raise NotImplementedError

    @property
    def appended_end(self) -> Offset:
        """End of what was appended; at or above the published end."""
        raise NotImplementedError

    @property
    def used_bytes(self) -> int:
        """Bytes of blocks and payloads in use, of `hot_bytes`."""
        raise NotImplementedError

    def readonly_fd(self) -> int:
        """A new descriptor of the memory that cannot be mapped writable; the caller passes it on and closes it."""
        raise NotImplementedError

    def reader(self, epoch_page_path: str | None = None) -> HotReader:
        """A reader in this process, on the same memory. Under eviction pressure it pins instead of failing."""
        raise NotImplementedError

    def close(self) -> None:
        """End every reader (they raise Unavailable from now on, attached ones too) and release the memory."""
        raise NotImplementedError

    def __enter__(self) -> HotSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
