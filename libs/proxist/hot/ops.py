"""What can be asked of a hot set, and what comes back: plain values, with JSON for the hop between processes.

An operation sees the rows of one shard with offset in [seam, end), and, for `HotLastBy` and backward `HotAsof`, the
boundary rows. `end` of an operation clamps what it sees to an older instant (`as_of`); None means the newest.

Times are nanoseconds; `from_ns` is inclusive, `to_ns` exclusive, `at_ns` inclusive; None means unbounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.query import WINDOW_FNS, Agg, agg_from_json

OFFSET_COLUMN = "_offset"
"""The hidden column (uint64, never null in a matched row) that every part carries."""
SEAMS = ("floor", "persisted")
DIRECTIONS = ("backward", "forward", "nearest")


@dataclass(frozen=True, slots=True)
class HotScan:
    """Rows with time in [from_ns, to_ns); the first `limit` of them in (time, seq, offset).

    `seam` "floor" reads everything resident; "persisted" only what of it ClickHouse does not have yet. `ordered` false lets
    the rows come in any order (then `limit` must be None): for consumers that aggregate. `before` (with `from_ns`, without
    `limit`): of each key the last so many rows before `from_ns` too, and perhaps earlier ones.
    """

    keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None
    limit: int | None = None
    seam: str = "floor"
    end: Offset | None = None
    ordered: bool = True
    before: int | None = None

    def __post_init__(self) -> None:
        _check(self.seam in SEAMS, "seam", self.seam, f"one of {', '.join(SEAMS)}")
        _check(self.limit is None or self.limit >= 0, "limit", self.limit, "at least 0")
        _check(self.ordered or self.limit is None, "limit", self.limit, "absent where `ordered` is false")
        whole = self.from_ns is not None and self.limit is None
        _check(self.before is None or (self.before >= 0 and whole), "before", self.before, "beside `from_ns` alone")

    def to_json(self) -> dict[str, Any]:
        return _to_json("scan", self)


@dataclass(frozen=True, slots=True)
class HotLastBy:
    """Per key the last row in Order with time <= at_ns."""

    keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    at_ns: TimeNs | None = None
    end: Offset | None = None

    def to_json(self) -> dict[str, Any]:
        return _to_json("last_by", self)


@dataclass(frozen=True, slots=True)
class HotFirstBy:
    """Per key the first row in Order with time >= at_ns."""

    keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    at_ns: TimeNs | None = None
    end: Offset | None = None

    def to_json(self) -> dict[str, Any]:
        return _to_json("first_by", self)


@dataclass(frozen=True, slots=True)
class HotAsof:
    """For each probe (key, time) the row as of its time; the probes travel beside the operation.

    backward: the last in Order with time <= the probe's (< where `allow_exact` is false); forward: the first with
    time >= (>); nearest: the closer of both, a tie going backward. `tolerance_ns` is inclusive.
    """

    columns: tuple[str, ...] | None = None
    direction: str = "backward"
    tolerance_ns: int | None = None
    allow_exact: bool = True
    end: Offset | None = None

    def __post_init__(self) -> None:
        _check(self.direction in DIRECTIONS, "direction", self.direction, f"one of {', '.join(DIRECTIONS)}")
        _check(self.tolerance_ns is None or self.tolerance_ns >= 0, "tolerance_ns", self.tolerance_ns, "at least 0")

    def to_json(self) -> dict[str, Any]:
        return _to_json("asof", self)


@dataclass(frozen=True, slots=True)
class HotWindow:
    """Per row with time in [from_ns, to_ns) the aggregates of its window: rows of its key up to itself in Order.

    Exactly one of `range_ns` (>= 1: those with time in (t - range_ns, t], where t is the row's) and `rows` (>= 1: the
    last so many, itself included); rows before `from_ns` belong to windows too. ema alone runs over all rows from
    `from_ns` on. `aggs` are of WINDOW_FNS, with distinct names.
    """

    aggs: tuple[Agg, ...]
    keys: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None
    range_ns: int | None = None
    rows: int | None = None
    end: Offset | None = None

    def __post_init__(self) -> None:
        _check_aggs(self.aggs)
        for agg in self.aggs:
            _check(agg.fn in WINDOW_FNS, "aggs", agg.fn, f"one of {', '.join(WINDOW_FNS)}")
        one = (self.range_ns is None) != (self.rows is None)
        _check(one, "range_ns", self.range_ns, "present where `rows` is absent, and absent where it is present")
        _check_step("range_ns", self.range_ns)
        _check_step("rows", self.rows)

    def to_json(self) -> dict[str, Any]:
        return _to_json("window", self)


@dataclass(frozen=True, slots=True)
class HotBars:
    """Per key and interval [n * every_ns, (n + 1) * every_ns) the aggregates of its rows with time in [from_ns, to_ns).

    Intervals without rows have no bar. ema runs over all rows from `from_ns` on; a bar has its value after the bar's
    last row. `aggs` are of BARS_FNS, with distinct names; `every_ns` >= 1.
    """

    aggs: tuple[Agg, ...]
    every_ns: int
    keys: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None
    end: Offset | None = None

    def __post_init__(self) -> None:
        _check_aggs(self.aggs)
        _check_step("every_ns", self.every_ns)

    def to_json(self) -> dict[str, Any]:
        return _to_json("bars", self)


HotOp = HotScan | HotLastBy | HotFirstBy | HotAsof | HotWindow | HotBars


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Probe rows of a `HotAsof`: `keys[i]` (a null key matches nothing) at `times_ns[i]`; equal lengths."""

    keys: pa.Array
    """string."""
    times_ns: npt.NDArray[np.int64]

    def to_batch(self) -> pa.RecordBatch:
        """Columns `key` (string) and `time` (timestamp[ns, UTC]): the form on the wire."""
        time = pa.array(self.times_ns).cast(pa.timestamp("ns", tz="UTC"))
        return pa.RecordBatch.from_arrays([self.keys, time], ["key", "time"])


def probes_from_batch(batch: pa.RecordBatch) -> Probes:
    """The inverse of `Probes.to_batch`; the first column is the key, the second the time.

    Raises InvalidArgument where the types are others or a time is null.
    """
    keys, times = batch.column(0), batch.column(1)
    if times.null_count or not pa.types.is_timestamp(times.type) or times.type.unit != "ns":
        raise InvalidArgument(f"Probe times are {times.type}, but must be timestamp[ns] without nulls. Cast them.")
    return Probes(keys.cast(pa.string()), times.view(pa.int64()).to_numpy(zero_copy_only=False))


@dataclass(frozen=True, slots=True, eq=False)
class ColdNeed:
    """What RAM alone cannot decide, so that rows with `_offset < min(seam, end)` must be asked: those below `persisted`
    cold, those from there on (the floor may have passed it) of the owner's log.

    `keys` (all but asof): None = every asked key, () = none. `probes` (asof): int64 indices, ascending;
    None for the other operations. Asking for more keys than needed does no harm.
    """

    keys: tuple[str, ...] | None = ()
    probes: npt.NDArray[np.int64] | None = None

    def __bool__(self) -> bool:
        """True where something must be read cold."""
        return self.keys is None or len(self.keys) > 0 or (self.probes is not None and len(self.probes) > 0)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"keys": None if self.keys is None else list(self.keys)}
        if self.probes is not None:
            out["probes"] = self.probes.tolist()
        return out


def cold_from_json(wire: dict[str, Any]) -> ColdNeed:
    """The inverse of `ColdNeed.to_json`."""
    keys, probes = wire["keys"], wire.get("probes")
    return ColdNeed(None if keys is None else tuple(keys), None if probes is None else np.array(probes, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class HotPart:
    """One shard's answer.

    `rows` of scan, last_by, first_by: key, time, seq (if the table has one), the other requested columns, `_offset`;
    each once, with the table's types. last_by and first_by: ascending by key (UTF-8 bytes), each key at most once;
    scan: ascending by (time, seq, offset). asof: one row per probe, in the probes' order, all null where unmatched:
    time, seq, the other requested columns, `_offset` (the key only where requested). window: key, time, seq, the
    aggregates, `_offset`, ascending by (time, seq, offset); bars: key, start (named as the table's time column), the
    aggregates, ascending by (start, key).

    window and bars have no rows of the keys that need cold (none at all where `cold.keys` is None): those are to be
    computed from the scanned rows of both sides, with `window_rows` and `bars_rows` (proxist.hot.windows). Of the other
    operations, what needs cold still has RAM's best candidate here, to be merged by Order with the cold one. The
    candidate may be a boundary row, which is in ClickHouse too: equal `_offset` is the same row. Scans never contain
    boundary rows.

    A copy: it stays as it is whatever the owner does later.
    """

    rows: pa.RecordBatch
    epoch: Epoch
    seam: Offset
    end: Offset
    floor: Offset
    persisted: Offset
    cold: ColdNeed

    def head_json(self) -> dict[str, Any]:
        """All but the rows: the value of the schema metadata `proxist.hot`."""
        return {
            "epoch": self.epoch,
            "seam": self.seam,
            "end": self.end,
            "floor": self.floor,
            "persisted": self.persisted,
            "cold": self.cold.to_json(),
        }


def part_from_head(head: dict[str, Any], rows: pa.RecordBatch) -> HotPart:
    """The inverse of `HotPart.head_json`, with the rows that came beside it."""
    return HotPart(
        rows,
        Epoch(head["epoch"]),
        Offset(head["seam"]),
        Offset(head["end"]),
        Offset(head["floor"]),
        Offset(head["persisted"]),
        cold_from_json(head["cold"]),
    )


@dataclass(frozen=True, slots=True)
class Marks:
    """Where a shard stands; one consistent reading."""

    shard: ShardId
    epoch: Epoch
    start: Offset
    floor: Offset
    persisted: Offset
    end: Offset
    lease_until_ns: int
    """CLOCK_MONOTONIC."""
    evicted_time_max: TimeNs | None
    """Largest time of any row below the floor; None where no row is."""
    t_persisted: TimeNs | None
    """Largest t such that every accepted row with time <= t is persisted; None while the shard has no row."""
    key_count: int


_OPS: dict[str, Callable[..., HotOp]] = {
    "scan": HotScan, "last_by": HotLastBy, "first_by": HotFirstBy, "asof": HotAsof, "window": HotWindow,
    "bars": HotBars,
}  # fmt: skip


def op_from_json(wire: dict[str, Any]) -> HotOp:
    """The inverse of every `to_json`. Raises InvalidArgument where the operation or a field is unknown."""
    fields = dict(wire)
    make = _OPS.get(str(fields.pop("op", None)))
    if make is None:
        raise InvalidArgument(f"Hot operation {wire.get('op')!r} is unknown. Use one of {', '.join(_OPS)}.")
    for name in ("keys", "columns"):
        if isinstance(fields.get(name), list):
            fields[name] = tuple(fields[name])
    if isinstance(fields.get("aggs"), list):
        fields["aggs"] = tuple(map(agg_from_json, fields["aggs"]))
    try:
        return make(**fields)
    except TypeError as error:
        raise InvalidArgument(f"Hot operation {wire['op']!r} cannot be read: {error}. Leave that field out.") from None


def _to_json(name: str, op: HotOp) -> dict[str, Any]:
    out: dict[str, Any] = {"op": name}
    for field in op.__dataclass_fields__:
        value = getattr(op, field)
        if value is not None:
            out[field] = [_plain(item) for item in value] if isinstance(value, tuple) else value
    return out


def _plain(item: Any) -> Any:
    return item.to_json() if isinstance(item, Agg) else item


def _check_aggs(aggs: tuple[Agg, ...]) -> None:
    names = [agg.name for agg in aggs]
    _check(len(names) > 0, "aggs", (), "at least one aggregate")
    _check(len(set(names)) == len(names), "aggs", names, 'aggregates of distinct names: name them with "as"')


def _check_step(field: str, value: int | None) -> None:
    _check(value is None or 1 <= value < 2**63, field, value, "at least 1 and below 2^63")


def _check(right: bool, field: str, value: object, rule: str) -> None:
    if not right:
        raise InvalidArgument(f"`{field}` of a hot operation is {value!r}, but must be {rule}.")
