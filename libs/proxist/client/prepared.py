"""Prepared reads: keys and columns settled once, a read then writes into numpy arrays, in microseconds where the table's
owners are attached. Where they are not, or RAM does not suffice, the same read goes to a query node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from proxist.client.answer import Answer
from proxist.client.attach import Elsewhere
from proxist.errors import InvalidArgument, Unavailable
from proxist.model.ids import ShardId
from proxist.model.table import Table, TableSpec
from proxist.model.token import Mark, Token
from proxist.model.types import numpy_type

if TYPE_CHECKING:
    from proxist.client.connection import Connection
    from proxist.client.local import Host, LocalReads
    from proxist.hot import prepared as engine
    from proxist.hot.reader import HotReader

    Prepared = engine.PreparedLastBy | engine.PreparedAsof

Array = npt.NDArray[Any]


class PreparedRead(ABC):
    """`keys[i]` is row i of `arrays[column]`; `found[i]` whether it has a row; `valid[column][i]`, for nullable columns,
    whether it has a value there. Cells without one are zero. For one thread at a time.

    The arrays are the same objects for the handle's life, so that they can be taken once; they are the caller's where
    it gave them. Where a read raises, they hold anything.
    """

    def __init__(
        self,
        connection: Connection,
        table: str,
        keys: list[str],
        columns: list[str] | None,
        out: Mapping[str, Array] | None,
    ) -> None:
        """Use `Table.prepare_last_by` or `Table.prepare_asof`."""
        self._connection, self.table, self.keys = connection, table, tuple(keys)
        spec = connection.table_map(table, fresh=False).spec
        self.columns = tuple(columns) if columns is not None else _fixed_columns(spec)
        self.arrays = {name: _array(spec, name, len(keys), (out or {}).get(name)) for name in self.columns}
        if unknown := set(out or ()) - set(self.columns):
            raise InvalidArgument(f"`out` has {sorted(unknown)}, which are not among the columns. Name them there too.")
        self.found = np.zeros(len(keys), np.bool_)
        self.valid = {n: np.zeros(len(keys), np.bool_) for n in self.columns if spec.column(n).nullable}
        self._parts: list[_Part] | None = None
        self._token: str | None = None

    @property
    def token(self) -> str | None:
        """What the last read saw, as an answer's token; None before the first."""
        if self._token is None and self._parts is not None:
            marks = {part.shard: part.mark for part in self._parts if part.mark is not None}
            return str(Token(marks)) if marks else None
        return self._token

    @abstractmethod
    def _make(self, reader: HotReader, keys: tuple[str, ...]) -> Prepared:
        """The engine's read of one shard's `keys`."""

    @abstractmethod
    def _ask(self, *times: npt.NDArray[np.int64]) -> None:
        """The same from a query node."""

    def _read(self, *times: npt.NDArray[np.int64]) -> int:
        local = self._connection.attaching.reads()
        if local is None or not self._read_local(local, *times):
            self._ask(*times)
        return int(np.count_nonzero(self.found))

    def _read_local(self, local: LocalReads, *times: npt.NDArray[np.int64]) -> bool:
        """Whether attached owners answered all of it."""
        if self._parts is None:
            self._parts = self._split(self._connection.table_map(self.table, fresh=False).table)
        try:
            for part in self._parts:
                if not part.read(local.host, *times):
                    return False
        except Elsewhere as elsewhere:
            tried, self._parts = self._parts, self._split(self._connection.table_map(self.table, fresh=False).table)
            if [part.shard for part in tried] != [part.shard for part in self._parts]:
                return self._read_local(local, *times)  # another table has the name by now
            local.check(elsewhere)
            return False
        self._token = None
        return True

    def _split(self, table: Table) -> list[_Part]:
        rows: dict[ShardId, list[int]] = {}
        for i, key in enumerate(self.keys):
            rows.setdefault(table.shard_ids[table.slot_of(key)], []).append(i)
        if len(rows) == 1:
            return [_Part(self, shard, None) for shard in rows]
        return [_Part(self, shard, np.array(share)) for shard, share in rows.items()]

    def _fill(self, answer: Answer, name: str, shown: str, at: pa.Array | None) -> None:
        column = answer.column(shown).combine_chunks()
        column = column if at is None else column.take(at)
        if name in self.valid:
            self.valid[name][:] = column.is_valid().to_numpy(zero_copy_only=False)
        array = self.arrays[name]
        if pa.types.is_timestamp(column.type):
            column, array = column.cast(pa.int64()), array.view(np.int64)
        array[:] = pc.fill_null(column, False if pa.types.is_boolean(column.type) else 0).to_numpy(zero_copy_only=False)


class PreparedLastBy(PreparedRead):
    """Each key's last row."""

    def read(self) -> int:
        """Read as of now; how many of the keys have a row. Raises as `Table.last_by` does."""
        return self._read()

    def _make(self, reader: HotReader, keys: tuple[str, ...]) -> Prepared:
        return reader.prepare_last_by(keys, self.columns)

    def _ask(self, *times: npt.NDArray[np.int64]) -> None:
        answer = self._connection.last_by(self.table, list(dict.fromkeys(self.keys)), list(self.columns))
        at = pc.index_in(pa.array(self.keys, pa.string()), value_set=answer.column(0).combine_chunks())
        self.found[:] = at.is_valid().to_numpy(zero_copy_only=False)
        for name in self.columns:
            self._fill(answer, name, name, at)
        self._token = answer.token


class PreparedAsof(PreparedRead):
    """Each key's row as of a time."""

    def __init__(self, *base: Any, direction: str, tolerance_ns: int | None, allow_exact: bool) -> None:
        super().__init__(*base)
        self._direction, self._tolerance_ns, self._allow_exact = direction, tolerance_ns, allow_exact

    def read(self, times: Any) -> int:
        """Read the row of keys[i] as of times[i] (datetime64 or int64 nanoseconds); how many have one. Raises as
        `Table.asof` does, InvalidArgument where there are not as many times as keys, and for NaT and times that
        nanoseconds of 64 bits do not count."""
        return self._read(_times(times, len(self.keys)))

    def _make(self, reader: HotReader, keys: tuple[str, ...]) -> Prepared:
        return reader.prepare_asof(
            keys,
            self.columns,
            direction=self._direction,
            tolerance_ns=self._tolerance_ns,
            allow_exact=self._allow_exact,
        )

    def _ask(self, *times: npt.NDArray[np.int64]) -> None:
        spec = self._connection.table_map(self.table, fresh=False).spec
        stamps = pa.array(times[0]).cast(pa.timestamp("ns", tz="UTC"))
        probes = pa.table({spec.key: pa.array(self.keys, pa.string()), spec.time: stamps})
        wanted = list(dict.fromkeys((*self.columns, spec.time)))
        answer = self._connection.asof(
            probes,
            self.table,
            wanted,
            direction=self._direction,
            tolerance=self._tolerance_ns,
            allow_exact=self._allow_exact,
        )
        shown = dict(zip(wanted, answer.column_names[2:], strict=True))
        self.found[:] = answer.column(shown[spec.time]).is_valid().to_numpy()
        for name in self.columns:
            self._fill(answer, name, shown[name], None)
        self._token = answer.token


class _Part:
    """The rows of one shard; None: all of them."""

    def __init__(self, whole: PreparedRead, shard: ShardId, rows: npt.NDArray[np.int64] | None) -> None:
        self.shard = shard
        self._whole, self._rows = whole, rows
        self._reader: HotReader | None = None
        self._prepared: Prepared | None = None
        self._copies: list[tuple[Array, Array]] = []

    @property
    def mark(self) -> Mark | None:
        """Where the shard stood at the last read."""
        if self._reader is None or self._prepared is None:
            return None
        return Mark(self._reader.epoch, self._prepared.end)

    def read(self, host: Host, *times: npt.NDArray[np.int64]) -> bool:
        """Whether RAM sufficed. Raises Elsewhere where the owner cannot be attached."""
        mine = times if self._rows is None else tuple(_readonly(share[self._rows]) for share in times)
        if not self._read_again(*mine):
            host.try_attached(self.shard, lambda path: self._read_anew(host, path, *mine))
        assert self._prepared is not None
        if self._prepared.undecided:
            return False
        found = self._whole.found
        if self._rows is None:
            np.greater_equal(self._prepared.slots, 0, out=found)
            for ours, theirs in self._copies:
                np.copyto(ours, theirs)
        else:
            found[self._rows] = self._prepared.slots >= 0
            for ours, theirs in self._copies:
                ours[self._rows] = theirs
        return True

    def _read_again(self, *times: npt.NDArray[np.int64]) -> bool:
        """From the owner as it was at the last read, where it still is."""
        if self._reader is None or self._prepared is None:
            return False
        try:
            self._reader.read(self._prepared, *times)
        except Unavailable:
            return False
        return True

    def _read_anew(self, host: Host, path: str, *times: npt.NDArray[np.int64]) -> None:
        """Attach to the owner as it is now, and read."""
        self._reader = self._prepared = None
        whole = self._whole
        keys = whole.keys if self._rows is None else tuple(whole.keys[i] for i in self._rows)
        reader = host.attach(path, self.shard)
        prepared = whole._make(reader, keys)
        pairs = [(whole.arrays[n], a) for n, a in prepared.arrays.items()]
        pairs += [(whole.valid[n], a) for n, a in prepared.valid.items()]
        self._copies = [(ours.view(theirs.dtype), theirs) for ours, theirs in pairs]
        reader.read(prepared, *times)
        self._reader, self._prepared = reader, prepared


def _fixed_columns(spec: TableSpec) -> tuple[str, ...]:
    """All that a numpy array holds."""
    return tuple(c.name for c in spec.columns if c.name != spec.key and numpy_type(c.type) is not None)


def _array(spec: TableSpec, name: str, count: int, given: Array | None) -> Array:
    type_ = spec.column(name).type
    dtype = numpy_type(type_)
    if dtype is None:
        raise InvalidArgument(
            f"Column {name!r} is {type_}, which a prepared read cannot write into a numpy array. Leave it out, or use "
            "the verb that is not prepared."
        )
    if given is None:
        return np.zeros(count, dtype)
    fits = given.dtype == dtype or (dtype.kind == "M" and given.dtype == np.int64)
    if not fits or given.shape != (count,) or not given.flags.writeable or not given.flags.c_contiguous:
        raise InvalidArgument(
            f"`out` for column {name!r} is an array of {given.dtype} and shape {given.shape}, but must be a writable, "
            f"contiguous one of {dtype} and shape ({count},)."
        )
    return given


def _times(times: Any, count: int) -> npt.NDArray[np.int64]:
    taken = np.asarray(times)
    if taken.dtype.kind == "M":
        taken = _nanoseconds(taken).view(np.int64)
    if taken.dtype != np.int64 or taken.shape != (count,):
        raise InvalidArgument(
            f"The times are an array of {taken.dtype} and shape {taken.shape}, but must be datetime64 or int64 "
            f"nanoseconds of shape ({count},): one per key."
        )
    return _readonly(np.ascontiguousarray(taken))


def _nanoseconds(times: Array) -> Array:
    """datetime64 of any unit as M8[ns], which wraps what it does not hold. Raises InvalidArgument for that, and for NaT."""
    ns = times.astype("M8[ns]", copy=False)
    lost = np.isnat(ns)
    if ns.dtype != times.dtype:
        lost |= ns.astype(times.dtype) != times
    if np.count_nonzero(lost):
        at = int(np.flatnonzero(lost)[0])
        raise InvalidArgument(
            f"times[{at}] is {times.flat[at]}, but must be a time of whole nanoseconds from the year 1678 to "
            "2262-04-11T23:47:16.854775807. Correct it, or prepare the read without its key."
        )
    return ns


def _readonly(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    view = values.view()
    view.flags.writeable = False
    return view
