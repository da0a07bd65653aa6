"""The operators' cold side: one ClickHouse statement each, over exactly the rows below the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from proxist.clickhouse import ClickHouse, cold_to_schema, table_name
from proxist.errors import InvalidArgument, NotFound, ProxistError, Unavailable
from proxist.model.ids import TIME_MIN, TimeNs
from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.seam import ColdAsof, ColdCut, ColdFirstBy, ColdLastBy, ColdOp, ColdScan

KEYS_INLINE_MAX = 100
"""More keys travel as external data: a statement's text has a limit of 256 KiB by default."""
PROBES_EACH_MIN = 8
"""So many probes are always answered by a read of the primary key each, instead of a join with their keys' history."""
ROWS_PER_EACH = 1_000_000
"""Of a table with so many rows for each probe or key, a read for each costs less than one of all their history: it takes
about 6 ms, a row of a join 80 ns."""
CUTS_EACH_MAX = 100
"""A statement names the cuts for each such read, and its text has a limit."""
SETTINGS = {"session_timezone": "UTC"}


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL and the external tables that it names, with their ClickHouse structures."""

    text: str
    external: dict[str, pa.Table]
    structures: dict[str, str]


class Cold:
    """An executor's ColdSource. Thread-safe."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    def read(self, op: ColdOp) -> pa.Table:
        """Raises Unavailable where ClickHouse does not answer or has not the table that it should have."""
        statement = statement_of(op)
        try:
            rows = self._clickhouse.query(
                statement.text, statement.external or None, SETTINGS, structures=statement.structures
            )
        except (InvalidArgument, NotFound) as error:
            raise _ours(error, op.table) from None
        return cold_to_schema(rows, _schema(op))


def _ours(error: ProxistError, table: Table) -> ProxistError:
    """We wrote the statement: what is wrong with it is not the caller's."""
    return Unavailable(
        f"The history of table {table.name!r} cannot be read: {error.message} Check the table in ClickHouse.",
        **error.details,
    )


def _schema(op: ColdOp) -> pa.Schema:
    spec = op.table.spec
    fields = [
        pa.field(name, pa.uint64()) if name in HIDDEN_COLUMNS else pa.field(name, spec.column(name).type)
        for name in op.columns
    ]
    return pa.schema([*fields, pa.field("_probe", pa.int64())] if isinstance(op, ColdAsof) else fields)


def statement_of(op: ColdOp) -> Statement:
    """The statement of one operator."""
    if isinstance(op, ColdAsof):
        return _asof(op)
    spec = op.table.spec
    if isinstance(op, ColdLastBy | ColdFirstBy) and op.keys and len(op.keys) <= _reads_each_max(op.cuts, 1):
        return Statement(_of_each_key(op, op.keys), {}, {})
    external: dict[str, pa.Table] = {}
    structures: dict[str, str] = {}
    where = [cuts_sql(op.cuts)]
    if op.keys is not None:
        where.append(_keys(spec.key, op.keys, external, structures))
    if isinstance(op, ColdScan):
        text = _scan(op, where)
    elif isinstance(op, ColdLastBy):
        where += [] if op.at_ns is None else time_range(spec.time, None, _after(op.at_ns))
        text = _select(op, where) + _per_key(op, "DESC", 1)
    else:
        assert isinstance(op, ColdFirstBy)
        where += time_range(spec.time, op.at_ns, None)
        text = _select(op, where) + _per_key(op, "ASC", 1)
    return Statement(text, external, structures)


def _of_each_key(op: ColdLastBy | ColdFirstBy, keys: Sequence[str]) -> str:
    last = isinstance(op, ColdLastBy)
    low, high = (None, None if op.at_ns is None else _after(op.at_ns)) if last else (op.at_ns, None)
    return " UNION ALL ".join(_one_row(op, key, low, high, "DESC" if last else "ASC") for key in dict.fromkeys(keys))


def _one_row(op: ColdOp, key: str, low: int | None, high: int | None, order: str, shown: str = "") -> str:
    """The first row in this order of a key with a time in [low, high): a read that ends where it meets one in the primary
    key. `shown`: more columns."""
    spec = op.table.spec
    where = [cuts_sql(op.cuts), keys_sql(spec.key, [key]), *time_range(spec.time, low, high)]
    rows = f"SELECT {_names(op.columns)}{shown} FROM {table_name(op.table)} WHERE {' AND '.join(where)}"
    return f"SELECT * FROM ({rows} ORDER BY {_terms([*spec.order, '_log', '_offset'], order)} LIMIT 1)"


def _select(op: ColdOp, where: Sequence[str]) -> str:
    return f"SELECT {_names(op.columns)} FROM {table_name(op.table)} WHERE {' AND '.join(where)}"


def _per_key(op: ColdOp, direction: str, count: int) -> str:
    """Of each key the first `count` rows in this direction of Order."""
    # The table's own sorting, so that ClickHouse reads it in order; (_log, _offset) is the offset's order in a shard.
    order = [op.table.spec.key, *op.table.spec.order, "_log", "_offset"]
    return f" ORDER BY {_terms(order, direction)} LIMIT {count} BY `{op.table.spec.key}`"


def _scan(op: ColdScan, where: Sequence[str]) -> str:
    spec = op.table.spec
    rows = _select(op, [*where, *time_range(spec.time, op.from_ns, op.to_ns)])
    if op.limit is not None:
        by_time = ", ".join(f"`{name}`" for name in (*spec.order, "_offset", "_log"))
        return f"{rows} ORDER BY {by_time} LIMIT {op.limit}"
    if not op.before:
        return rows
    earlier = _select(op, [*where, *time_range(spec.time, None, op.from_ns)]) + _per_key(op, "DESC", op.before)
    # Of one key, the read in order of the primary key ends with the last row that is wanted.
    enough = "" if op.keys is None else f" LIMIT {op.before * len(op.keys)}"
    return f"{rows} UNION ALL SELECT * FROM ({earlier}{enough})"


def cuts_sql(cuts: Sequence[ColdCut]) -> str:
    """The rows of `ColdCut.holds`, for any of the cuts, as a condition in parentheses."""
    return "(" + " OR ".join(f"({_cut(cut)})" for cut in cuts) + ")"


def _cut(cut: ColdCut) -> str:
    lost = "".join(f" AND NOT (_log = {log} AND _offset >= {end})" for log, end in cut.lost)
    return f"_log >= {cut.first_log} AND _log <= {cut.last_log} AND _offset < {cut.below}{lost}"


def time_range(column: str, from_ns: int | None, to_ns: int | None) -> list[str]:
    """Conditions for time in [from_ns, to_ns). Bounds before DateTime64's first instant are decided here: literals
    below it would be moved to it."""
    conditions = []
    if from_ns is not None and from_ns > TIME_MIN:
        conditions.append(f"`{column}` >= {_instant(from_ns)}")
    if to_ns is not None:
        conditions.append(f"`{column}` < {_instant(to_ns)}" if to_ns > TIME_MIN else "0")
    return conditions


def _after(at_ns: int) -> TimeNs | None:
    return TimeNs(at_ns + 1) if at_ns + 1 < 2**63 else None


def _instant(time_ns: int) -> str:
    return f"fromUnixTimestamp64Nano(toInt64({time_ns}), 'UTC')"


def keys_sql(column: str, keys: Sequence[str]) -> str:
    return f"`{column}` IN (" + ", ".join(literal(key) for key in keys) + ")" if keys else "0"


def _keys(column: str, keys: Sequence[str], external: dict[str, pa.Table], structures: dict[str, str]) -> str:
    if len(keys) <= KEYS_INLINE_MAX:
        return keys_sql(column, keys)
    external["__px_keys"] = pa.table({"k": pa.array(keys, pa.string())})
    structures["__px_keys"] = "`k` String"
    return f"`{column}` IN (SELECT k FROM __px_keys)"


def literal(text: str) -> str:
    """A string literal of ClickHouse."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0")
    return f"'{escaped}'"


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in columns)


def _terms(columns: Sequence[str], direction: str) -> str:
    return ", ".join(f"`{name}` {direction}" for name in columns)


def _asof(op: ColdAsof) -> Statement:
    directions = ("backward", "forward") if op.direction == "nearest" else (op.direction,)
    if len(op.probes.times_ns) <= _reads_each_max(op.cuts, PROBES_EACH_MIN):
        return Statement(" UNION ALL ".join(_each(op, d) for d in directions), {}, {})
    # Instants before DateTime64's first would be moved to it; no row is earlier, so only forward may be moved there.
    times = np.maximum(op.probes.times_ns, TIME_MIN)
    probes = pa.table(
        {
            "k": op.probes.keys,
            "t": pa.array(times).cast(pa.timestamp("ns", "UTC")),
            "i": pa.array(np.arange(len(times)), pa.int64()),
            "b": pa.array(op.probes.times_ns >= TIME_MIN),
        }
    )
    structure = "`k` String, `t` DateTime64(9, 'UTC'), `i` Int64, `b` Bool"
    text = " UNION ALL ".join(_joined(op, d, int(times.min()), int(times.max())) for d in directions)
    return Statement(text, {"__px_probes": probes}, {"__px_probes": structure})


def _reads_each_max(cuts: Sequence[ColdCut], least: int) -> int:
    """Up to how many probes or keys, and `least` at any rate, a read for each is expected to be cheaper than one of all."""
    rows = sum({cut.shard: int(cut.below) for cut in cuts}.values())
    return max(least, min(rows // ROWS_PER_EACH, CUTS_EACH_MAX // max(1, len(cuts))))


def _each(op: ColdAsof, direction: str) -> str:
    """One read per probe."""
    order = "DESC" if direction == "backward" else "ASC"
    parts = []
    for i, (key, at) in enumerate(zip(op.probes.keys.to_pylist(), op.probes.times_ns.tolist(), strict=True)):
        low, high = _window(op, direction, at, at)
        parts.append(_one_row(op, key, low, high, order, f", toInt64({i}) AS `_probe`"))
    if not parts:
        return f"SELECT {_names(op.columns)}, toInt64(0) AS `_probe` FROM {table_name(op.table)} WHERE 0"
    return " UNION ALL ".join(parts)


def _window(op: ColdAsof, direction: str, first: int, last: int) -> tuple[int | None, int | None]:
    """The times [low, high) that can match probes with times in [first, last]."""
    tolerance, exact = op.tolerance_ns, 1 if op.allow_exact else 0
    if direction == "backward":
        low = None if tolerance is None else max(first - tolerance, -(2**63))
        return low, last + exact if last + exact < 2**63 else None
    high = None if tolerance is None or last + tolerance + 1 >= 2**63 else last + tolerance + 1
    return min(first + 1 - exact, 2**63 - 1), high


def _joined(op: ColdAsof, direction: str, first: int, last: int) -> str:
    spec = op.table.spec
    backward = direction == "backward"
    operator = (">=" if op.allow_exact else ">") if backward else ("<=" if op.allow_exact else "<")
    low, high = _window(op, direction, first, last)
    where = [cuts_sql(op.cuts), f"`{spec.key}` IN (SELECT k FROM __px_probes)", *time_range(spec.time, low, high)]
    # Equal times: one row stays, the last in Order for a backward match and the first for a forward one.
    ties = _terms([*spec.order[1:], "_log", "_offset"], "DESC" if backward else "ASC")
    columns = dict.fromkeys((*op.columns, spec.key, spec.time))
    right = (
        f"SELECT {_names(list(columns))} FROM {table_name(op.table)} WHERE {' AND '.join(where)} "
        f"ORDER BY `{spec.key}`, `{spec.time}`, {ties} LIMIT 1 BY `{spec.key}`, `{spec.time}`"
    )
    near = "1" if op.tolerance_ns is None else _within(spec.time, op.tolerance_ns, backward)
    shown = ", ".join(f"r.`{name}` AS `{name}`" for name in op.columns)
    return (
        f"SELECT {shown}, p.i AS `_probe` FROM __px_probes AS p ASOF JOIN ({right}) AS r "
        f"ON p.k = r.`{spec.key}` AND p.t {operator} r.`{spec.time}` WHERE {near}" + (" AND p.b" if backward else "")
    )


def _within(time: str, tolerance_ns: int, backward: bool) -> str:
    probe, row = "toInt128(toUnixTimestamp64Nano(p.t))", f"toInt128(toUnixTimestamp64Nano(r.`{time}`))"
    return f"{probe} - {row} <= {tolerance_ns}" if backward else f"{row} - {probe} <= {tolerance_ns}"
