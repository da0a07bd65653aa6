"""HotSet: the owner's side of a shard's hot set. One writer thread; readers come through `HotReader`."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import BatchTooLarge, Overloaded
from proxist.hot import words as w
from proxist.hot.ahead import Ahead
from proxist.hot.arena import Arena
from proxist.hot.boundaries import HotCarried, capture
from proxist.hot.chains import Chains
from proxist.hot.dictionary import Dictionary
from proxist.hot.incoming import Take, cells_of
from proxist.hot.layout import Layout, block_bytes, plan_layout
from proxist.hot.ledger import Arrivals, TimeSpans, Unpersisted
from proxist.hot.ops import Marks
from proxist.hot.payloads import PayloadRing
from proxist.hot.pins import Pins
from proxist.hot.reader import HotReader, read_marks
from proxist.hot.store import column_stores
from proxist.hot.taking import Taking
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.table import DEFAULT_TENANT, TableSpec

EVICT_STEP_ROWS = 65_536
"""Rows that one step of an eviction passes at most: about 2 ms of work with 10,000 keys."""
_NOTHING = Offset(0)


class HotSet:
    """The resident rows of one shard under one epoch, in shared memory that this object owns.

    All methods are for one thread at a time, except `reader`, `marks`, `readonly_fd` and what readers do.
    """

    def __init__(self, layout: Layout, shard: ShardId, epoch: Epoch, start: Offset, hot_bytes: int) -> None:
        """Use `create`."""
        self._layout, self._spec = layout, layout.spec
        self._L = layout.kernel_layout()
        self._arena = Arena(layout)
        self._mem = self._arena.views.mem
        self._chains = Chains(layout, self._L, self._arena)
        self._ahead = Ahead(layout.spec.name, self._chains.block_arrays(), layout.blocks)
        self._ring = PayloadRing(self._arena, self._L)
        self._stores = column_stores(layout, self._arena.views, self._ring)
        self._dictionary = Dictionary(self._arena.views, layout.dictionary_layout(""))
        self._dictionary.create()
        self._taking = Taking(layout.spec, self._dictionary, self._stores)
        self._block_bytes = block_bytes(layout.spec, layout.block_rows)
        self._hot_bytes = max(hot_bytes, layout.blocks * self._block_bytes)
        self._arrivals = Arrivals(layout.spec.hot_window_ns)
        self._unpersisted = Unpersisted()
        self.spans = TimeSpans(start)
        """Of the rows that are not persisted, in memory or not."""
        self._pins = Pins()
        self._closed = False
        self._taken: dict[int, Take] = {}
        self._staged: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None
        """Blocks and keys of the last append, which readers do not follow yet."""
        self._last_marks: Marks | None = None
        self._last_used = (0, 0)
        self.first = start
        """No row below it was ever in this memory, but for boundary rows."""
        self.eviction_count = 0
        """Steps by which the floor was moved."""
        self._appended = int(start)
        self._write_header(shard, epoch, start)

    def _write_header(self, shard: ShardId, epoch: Epoch, start: Offset) -> None:
        mem = self._mem
        mem[w.H_VERSION], mem[w.H_SHARD], mem[w.H_EPOCH] = w.VERSION, shard, epoch
        mem[w.H_START], mem[w.H_COMPLETE] = start, 1 if start == 0 else 0
        mem[w.H_END] = mem[w.H_FLOOR] = mem[w.H_PERSISTED] = start
        mem[w.H_EVICTED_TIME_MAX] = mem[w.H_T_PERSISTED] = w.INT64_MIN
        mem[w.H_MAGIC] = w.MAGIC

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
        block_rows: int | None = None,
        restored: HotCarried | None = None,
    ) -> HotSet:
        """An empty hot set: floor = persisted = end = `start`, lease 0 (readers refuse until `set_lease_until`).

        `start` above 0 says that rows exist below it which this hot set never saw: then nothing that could depend on
        them is decided by RAM alone (every operation reports cold need).
        `hot_bytes` bounds blocks and payloads of this shard; default `spec.hot_bytes` shared out over its shards.
        `block_rows` (a power of two, 16 to 256) is chosen by size where it is None.
        `restored`: the carried state of a hot set of this shard. Then floor = end = its floor (`start` is not used), and
        when the rows from there on were appended every question is answered as that hot set answered it. Raises
        Overloaded where its keys or one of its payloads do not fit.
        """
        bound = hot_bytes if hot_bytes is not None else max(spec.hot_bytes // spec.shards, 2**20)
        layout = plan_layout(spec, tenant, bound, block_rows=block_rows)
        hot = cls(layout, shard, epoch, start if restored is None else restored.floor, bound)
        if restored is not None:
            try:
                hot._restore(restored)
            except BaseException:
                hot.close()
                raise
        return hot

    def carried(self) -> HotCarried:
        """What must be kept so that `create` can go on from the present floor. For any thread, while the writer goes on."""
        return capture(self._layout, self._arena.views.readonly(), self._pins, self.spans)

    def _restore(self, carried: HotCarried) -> None:
        mem, latest = self._mem, carried.evicted_time_max
        mem[w.H_START], mem[w.H_COMPLETE] = carried.start, int(carried.complete)
        mem[w.H_PERSISTED] = min(carried.persisted, carried.floor)
        if latest is None:
            return
        for rows in carried.boundary:
            self._restore_rows(rows)
        mem[w.H_EVICTED_TIME_MAX] = latest
        known = carried.t_persisted
        self._unpersisted.restore(carried.floor, latest, known if carried.persisted < carried.floor else None)
        earliest, below = w.INT64_MIN if known is None else known + 1, carried.persisted_time_max
        self.spans.restore(carried.persisted, earliest, latest, below)
        mem[w.H_T_PERSISTED] = self._unpersisted.time_persisted()

    def _restore_rows(self, rows: pa.RecordBatch) -> None:
        take = self._taking.take(rows)
        if take.unknown:
            raise self._overloaded("keys", rows.num_rows)
        if self._payloads_lack([take])[0]:
            half = rows.num_rows // 2
            if not half:
                raise self._overloaded("payload bytes", 1)
            self._restore_rows(rows.slice(0, half))
            self._restore_rows(rows.slice(half))
            return

        def put(slots: npt.NDArray[np.int64]) -> None:
            for store, taken in zip(self._stores, take.columns, strict=True):
                store.put(taken, slots)

        offsets = cells_of(rows.column("_offset"), 8)
        self._chains.restore(take.codes, take.times, take.seqs, offsets, put, self._stores)
        self._ring.free_below(self._appended, self._appended)

    def prepare(self, batch: pa.RecordBatch) -> None:
        """Look at a batch that will be appended, its keys above all; for any thread, beside the one that appends. Raises
        SchemaMismatch or InvalidBatch as `append` does."""
        self._taking.prepare(batch)

    def has_room(self, *batches: pa.RecordBatch) -> bool:
        """True: appending all of `batches`, in order, with no eviction between, will not raise Overloaded.

        False: evict, then ask again. Changes nothing but that new keys get their codes. Raises SchemaMismatch or InvalidBatch as `append` does.
        """
        takes = [self._taking.take(batch) for batch in batches if batch.num_rows]
        fits = not takes or self._lack(takes) is None
        # `append` comes next with the same batches: they need not be taken apart, nor their room be counted, twice
        self._taken = {id(take.batch): take for take in takes} if fits else {}
        return fits

    def append(self, batch: pa.RecordBatch, first: Offset, arrived_ns: int) -> Offset:
        """Take the rows of `batch` as offsets [first, first + rows); returns the new appended end.

        The batch was validated (full) and has the table's columns, by name, in any order. Rows are not visible before
        `publish`. `first` must be the appended end (ValueError). Raises Overloaded, with nothing changed, where room
        is lacking (BatchTooLarge where it always will be); SchemaMismatch or InvalidBatch (null in a column that is
        not nullable), with nothing changed. The batch may be dropped afterwards: everything is copied.
        """
        if first != self._appended:
            raise ValueError(f"rows come at offset {first}, but the appended end is {self._appended}")
        if not batch.num_rows:
            return Offset(self._appended)
        take = self._taken.pop(id(batch), None)
        if take is None:
            self._taken = {}  # this batch takes room that was counted for others
            take = self._taking.take(batch)
            if lack := self._lack([take]):
                raise self._overloaded(lack, batch.num_rows)
        self._expose()
        slots, blocks, keys, min_time = self._chains.place(take.codes, take.times, take.seqs, first)
        self._ring.note(first)
        for store, taken in zip(self._stores, take.columns, strict=True):
            store.put(taken, slots)
        self._staged = blocks, keys
        self._ahead.used(self._chains.used_blocks)
        self._appended += batch.num_rows
        self._arrivals.note(self._appended, arrived_ns)
        for ledger in (self._unpersisted, self.spans):
            ledger.note(self._appended, min_time, int(take.times.max()))
        self._mem[w.H_T_PERSISTED] = self._unpersisted.time_persisted()
        return Offset(self._appended)

    def _lack(self, takes: list[Take]) -> str | None:
        """What is missing to append all of these, or None."""
        unknown = sum(take.unknown for take in takes)
        if unknown:  # `_take` found no room for them
            return "keys"
        lacking, payload = self._payloads_lack(takes)
        if lacking:
            return "payload bytes"
        left = self._hot_bytes - self._ring.used_bytes - payload
        blocks_max = min(self._layout.blocks, left // self._block_bytes) - self._chains.live_blocks
        rows = sum(len(take.codes) for take in takes)
        if rows // self._layout.block_rows + min(rows, self._dictionary.count) <= blocks_max:
            return None  # a block begun for each key: what is left is counted only where it is little
        codes = takes[0].codes if len(takes) == 1 else np.concatenate([take.codes for take in takes])
        return "bytes" if self._chains.blocks_needed(codes) > blocks_max else None

    def _payloads_lack(self, takes: list[Take]) -> tuple[bool, int]:
        """(whether the ring lacks room for the payloads of all of these, their bytes)."""
        bounds = [store.payload_bytes(c) for take in takes for store, c in zip(self._stores, take.columns, strict=True)]
        payload, longest = sum(b for b, _ in bounds), max((b for _, b in bounds), default=0)
        return bool(payload) and not self._ring.has_room(payload, longest), payload

    def _overloaded(self, lack: str, rows: int) -> Overloaded | BatchTooLarge:
        table, shard = self._spec.name, int(self._mem[w.H_SHARD])
        if lack == "keys":
            return Overloaded(
                f"Table {table!r} has {self._dictionary.count} keys in this shard, and its dictionary holds "
                f"{self._layout.keys_max}. Use fewer keys or more shards.",
                shard=shard,
            )
        if self._chains.live_blocks == 0:
            return BatchTooLarge(
                f"{rows} rows of table {table!r} do not fit into its hot set of {self._hot_bytes} bytes, even empty. "
                "Send smaller batches or raise hot_bytes.",
                shard=shard,
            )
        return Overloaded(
            f"The hot set of table {table!r} uses {self.used_bytes} of {self._hot_bytes} bytes and has no room for "
            f"{rows} more rows. Wait until rows are persisted and evicted, or raise hot_bytes.",
            retry_after_s=0.1,
            shard=shard,
        )

    def publish(self, end: Offset) -> None:
        """Make the rows below `end` visible to readers that start from now on. `end` never goes back (ValueError)."""
        if not int(self._mem[w.H_END]) <= end <= self._appended:
            raise ValueError(f"end {end} is not between {int(self._mem[w.H_END])} and the appended {self._appended}")
        self._expose()
        self._mem[w.H_END] = end

    def _expose(self) -> None:
        """Let chains and last rows lead to what was appended. Not before they have to: until `publish`, readers that
        meet rows above their end walk back from them, and a log's flush may lie in between."""
        if self._staged is not None:
            self._chains.expose(*self._staged)
            self._staged = None

    def set_persisted(self, offset: Offset) -> None:
        """Rows below `offset` are confirmed in ClickHouse. A lower value than before is ignored.

        Raises ValueError above the published end.
        """
        if offset > int(self._mem[w.H_END]):
            raise ValueError(f"persisted {offset} is above the end {int(self._mem[w.H_END])}")
        if offset > int(self._mem[w.H_PERSISTED]):
            self._mem[w.H_PERSISTED] = offset
            self._unpersisted.persisted_to(offset)
            self.spans.persisted_to(offset)
            self._mem[w.H_T_PERSISTED] = self._unpersisted.time_persisted()

    def set_lease_until(self, monotonic_ns: int) -> None:
        """Readers answer only before this instant of CLOCK_MONOTONIC; 0 stops them at once."""
        self._mem[w.H_LEASE_UNTIL] = monotonic_ns

    def evict(self, floor: Offset, logged: Offset = _NOTHING) -> Offset:
        """Move the floor to min(floor, max(persisted, logged)), freeing memory; returns the floor reached.

        `logged`: rows below it are on disk in the log, so that they may leave memory before ClickHouse has them (they
        are then *warm*). Never goes back. Works in `evict_step`s; a reader's pin makes it stop early.
        """
        reached = self.evict_step(floor, logged=logged)
        while reached < min(floor, self._evictable(logged)):
            before, reached = reached, self.evict_step(floor, logged=logged)
            if reached == before:
                break
        return reached

    def evict_step(self, floor: Offset, rows_max: int = EVICT_STEP_ROWS, logged: Offset = _NOTHING) -> Offset:
        """As `evict`, but moves by at most `rows_max` rows, so that appends wait a few ms at most.

        Each step makes reads that are under way begin again: do not call it more often than every few ms.
        """
        mem = self._mem
        now = int(mem[w.H_FLOOR])
        target = min(int(floor), self._evictable(logged), now + rows_max)
        if target <= now:
            return Offset(now)
        self._expose()  # eviction compares what readers follow with what the writer knows
        with self._pins.evicting() as allowed:
            if not allowed:
                return Offset(now)
            # Boundary rows first, then the floor, then the blocks: see kernels_evict.
            freed, max_time = self._chains.cover(target, self._stores)
            mem[w.H_EVICTED_TIME_MAX] = max(int(mem[w.H_EVICTED_TIME_MAX]), max_time)
            mem[w.H_FLOOR] = target
            self._chains.free(freed)
            self._ring.free_below(target, self._appended)
        self._arrivals.evicted_to(target)
        self.eviction_count += 1
        return Offset(target)

    def _evictable(self, logged: Offset) -> int:
        return max(int(self._mem[w.H_PERSISTED]), min(int(logged), int(self._mem[w.H_END])))

    def floor_before_time(self, time_ns: TimeNs) -> Offset:
        """The largest floor (at most `persisted`) below which every resident row has a time < `time_ns`."""
        return Offset(self._chains.first_offset_from_time(time_ns, int(self._mem[w.H_PERSISTED])))

    def floor_keeping(self, rows: int) -> Offset:
        """The floor (at most `persisted`, at least the present one) that keeps the newest `rows` rows resident."""
        return self._within(int(self._mem[w.H_END]) - rows)

    def floor_due(self, now_ns: int) -> Offset:
        """The floor (at most `persisted`) that the hot window asks for: batches that arrived before now - window go.

        Batches are remembered in groups of a 1,024th of the window, so that a row stays at most that much longer.
        """
        return self._within(self._arrivals.due(now_ns))

    def _within(self, floor: int) -> Offset:
        return Offset(max(int(self._mem[w.H_FLOOR]), min(floor, int(self._mem[w.H_PERSISTED]))))

    def marks(self) -> Marks:
        """Where the shard stands. Works whatever the lease; after `close`: where it stood."""
        return self._last_marks or read_marks(self._mem, self._dictionary.count)

    @property
    def appended_end(self) -> Offset:
        """End of what was appended; at or above the published end."""
        return Offset(self._appended)

    @property
    def used_bytes(self) -> int:
        """Bytes of blocks and payloads in use, of `hot_bytes`."""
        return self._chains.live_blocks * self._block_bytes + self._ring.used_bytes

    @property
    def bound_bytes(self) -> int:
        """What blocks and payloads may use."""
        return self._hot_bytes

    def usage(self) -> tuple[int, int]:
        """(blocks, bytes) in use; for any thread, and after `close` too: what it was."""
        chains, ring = getattr(self, "_chains", None), getattr(self, "_ring", None)
        if self._closed or chains is None or ring is None:
            return self._last_used
        return chains.live_blocks, chains.live_blocks * self._block_bytes + ring.used_bytes

    def readonly_fd(self) -> int:
        """A new descriptor of the memory that cannot be mapped writable; the caller passes it on and closes it."""
        return self._arena.readonly_fd()

    def reader(self, epoch_page_path: str | None = None) -> HotReader:
        """A reader in this process, on the same memory. Under eviction pressure it pins instead of failing."""
        return HotReader(self._layout, self._arena.views.readonly(), epoch_page_path, self._pins)

    def close(self) -> None:
        """End every reader (they raise Unavailable from now on, attached ones too) and release the memory.

        Calls that run finish or fail by themselves. Closing twice does nothing.
        """
        if self._closed:
            return
        self._last_used = self.usage()
        self._closed = True
        self._ahead.close()
        self._mem[w.H_CLOSED] = 1
        self._mem[w.H_LEASE_UNTIL] = 0
        self._last_marks = self.marks()
        self._mem = np.zeros(w.H_APPENDED_END + 1, np.int64)
        self._arena.close()
        self._taken = {}
        del self._chains, self._ring, self._stores, self._dictionary, self._taking

    def __enter__(self) -> HotSet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
