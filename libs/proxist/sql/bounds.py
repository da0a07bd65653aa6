"""What a query provably keeps of a table: bounds on time and the keys, from the conjuncts of WHERE.

A bound is used to prune and to decide that RAM suffices; the condition itself stays in the query. So whatever is not
understood here costs time, never rows: only forms whose meaning is certain count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from proxist.errors import InvalidArgument
from proxist.model.ids import TIME_MIN, TimeNs
from proxist.model.table import Table
from proxist.model.units import parse_time_ns
from proxist.sql.functions import function_name
from proxist.sql.scopes import Source, own_nodes, sources

_INT64 = range(-(2**63), 2**63)
_DATETIME_NS = range(0, 2**32 * 10**9)
"""What DateTime can hold. ClickHouse wraps or clamps what is outside, Date (to 2149) a little later."""
_UNITS_NS = {
    "NANOSECOND": 1, "MICROSECOND": 10**3, "MILLISECOND": 10**6, "SECOND": 10**9, "MINUTE": 60 * 10**9,
    "HOUR": 3600 * 10**9, "DAY": 86400 * 10**9, "WEEK": 7 * 86400 * 10**9,
}  # fmt: skip
_FROM_UNIX = {"fromunixtimestamp64nano": 1, "fromunixtimestamp64micro": 10**3, "fromunixtimestamp64milli": 10**6,
              "fromunixtimestamp64second": 10**9}  # fmt: skip
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
    exp.EQ: exp.EQ,
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Rows with time in [from_ns, to_ns) and a key among `keys`; None means unbounded."""

    keys: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None

    def both(self, other: Bounds) -> Bounds:
        """What satisfies this and `other`."""
        keys = other.keys if self.keys is None else self.keys
        if self.keys is not None and other.keys is not None:
            keys = tuple(k for k in self.keys if k in other.keys)
        lows = [b for b in (self.from_ns, other.from_ns) if b is not None]
        highs = [b for b in (self.to_ns, other.to_ns) if b is not None]
        return Bounds(keys, max(lows, default=None), min(highs, default=None))

    def either(self, other: Bounds) -> Bounds:
        """What covers this and `other`."""
        keys = None
        if self.keys is not None and other.keys is not None:
            keys = tuple(dict.fromkeys((*self.keys, *other.keys)))
        low = None if self.from_ns is None or other.from_ns is None else TimeNs(min(self.from_ns, other.from_ns))
        high = None if self.to_ns is None or other.to_ns is None else TimeNs(max(self.to_ns, other.to_ns))
        return Bounds(keys, low, high)


def bounds_in(select: exp.Select) -> Iterator[tuple[Table, Bounds]]:
    """For each table that `select` itself reads, the bounds that its WHERE sets."""
    entries = sources(select)
    where = select.args.get("where")
    conjuncts = list(_conjuncts(where.this)) if where is not None else []
    # An alias anywhere in a SELECT is a name in all of it, before the column of that name.
    shadowed = {n.alias for n in own_nodes(select) if isinstance(n, exp.Alias)} | _scalar_names(select)
    for entry in entries:
        if entry.table is None:
            continue
        bounds = Bounds()
        if _where_prunes(select, entry):
            for conjunct in conjuncts:
                bounds = bounds.both(_bound(conjunct, entry, entries, shadowed))
        yield entry.table, bounds


def _where_prunes(select: exp.Select, entry: Source) -> bool:
    """Whether dropping rows of `entry` that WHERE refuses cannot change which other rows join.

    Not on the side of an outer join that may be filled with defaults (they pass another test than the row which they
    replace), and not on the right of ASOF, ANY, SEMI and ANTI (another row would be picked instead).
    """
    joins = select.args.get("joins") or []
    if any(j.kind == "ARRAY" or j.side in ("RIGHT", "FULL") for j in joins):
        return False
    if entry.join is None:
        return all((j.kind or "") in ("", "INNER", "CROSS", "ASOF", "OUTER", "ALL") for j in joins)
    plain = all((j.kind or "") in ("", "INNER", "CROSS", "ALL") for j in joins)
    return plain and not entry.join.side


def _conjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    if isinstance(node, exp.Paren):
        yield from _conjuncts(node.this)
    elif isinstance(node, exp.And):
        yield from _conjuncts(node.this)
        yield from _conjuncts(node.expression)
    else:
        yield node


def _scalar_names(select: exp.Select) -> set[str]:
    """Names of WITH expressions that are visible in `select`."""
    names: set[str] = set()
    at: exp.Expr | None = select
    while at is not None:
        with_ = at.args.get("with_")
        if with_ is not None:
            names |= {cte.alias for cte in with_.expressions if cte.args.get("scalar")}
        at = at.parent
    return names


def _bound(conjunct: exp.Expr, entry: Source, entries: list[Source], shadowed: set[str]) -> Bounds:
    table = entry.table
    assert table is not None

    def is_column(node: exp.Expr, name: str) -> bool:
        if not isinstance(node, exp.Column) or node.name != name:
            return False
        if node.table:
            return node.table == entry.alias and node.table not in shadowed
        return name not in shadowed and all(
            e is entry or (e.table is not None and name not in e.table.spec.schema.names) for e in entries
        )

    spec = table.spec
    if isinstance(conjunct, exp.Between) and is_column(conjunct.this, spec.time):
        low, high = _time_ns(conjunct.args["low"]), _time_ns(conjunct.args["high"])
        return _range(exp.GTE, low).both(_range(exp.LTE, high))
    if isinstance(conjunct, exp.In) and is_column(conjunct.this, spec.key):
        values = conjunct.expressions
        if values and all(isinstance(v, exp.Literal) and v.is_string for v in values):
            return Bounds(keys=tuple(dict.fromkeys(v.this for v in values)))
        return Bounds()
    if type(conjunct) not in _MIRRORED:
        return Bounds()
    kind, left, right = type(conjunct), conjunct.this, conjunct.expression
    if not isinstance(left, exp.Column):
        kind, left, right = _MIRRORED[kind], right, left
    if is_column(left, spec.time):
        return _range(kind, _time_ns(right))
    if kind is exp.EQ and is_column(left, spec.key) and isinstance(right, exp.Literal) and right.is_string:
        return Bounds(keys=(right.this,))
    return Bounds()


def _range(kind: type[exp.Expr], at: int | None) -> Bounds:
    if at is None or at not in _INT64 or at + 1 not in _INT64:
        return Bounds()
    lows: dict[type[exp.Expr], int] = {exp.GT: at + 1, exp.GTE: at, exp.EQ: at}
    highs: dict[type[exp.Expr], int] = {exp.LT: at, exp.LTE: at + 1, exp.EQ: at + 1}
    low, high = lows.get(kind), highs.get(kind)
    return Bounds(None, None if low is None else TimeNs(low), None if high is None else TimeNs(high))


def _time_ns(node: exp.Expr) -> int | None:
    """The instant that a constant means in UTC, exactly; None where that is not certain."""
    if isinstance(node, exp.Paren):
        return _time_ns(node.this)
    if isinstance(node, exp.Literal) and node.is_string:
        return _instant(node.this, 9)
    if isinstance(node, exp.Add | exp.Sub) and isinstance(node.expression, exp.Interval):
        base, step = _time_ns(node.this), _interval_ns(node.expression)
        if base is None or step is None or isinstance(node.this.unnest(), exp.Literal):  # text becomes milliseconds
            return None
        moved = base + step if isinstance(node, exp.Add) else base - step
        return moved if moved in _DATETIME_NS else None
    if isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal) and node.this.is_string:
        return _cast_ns(node.this.this, node.to)
    name = function_name(node)
    return None if name is None else _call_ns(name.lower(), node.expressions)


def _call_ns(name: str, args: list[exp.Expr]) -> int | None:
    if not args or not isinstance(args[0], exp.Literal):
        return None
    text, zone, digits = args[0].this, args[1:], {"todatetime": 0, "todate": -1}.get(name)
    if name == "todatetime64" and len(args) > 1 and isinstance(args[1], exp.Literal) and args[1].is_int:
        digits, zone = int(args[1].this), args[2:]
    if not all(isinstance(z, exp.Literal) and z.is_string and z.this == "UTC" for z in zone):
        return None
    if name in _FROM_UNIX and args[0].is_int:
        return int(text) * _FROM_UNIX[name]
    if digits is None:
        return None
    if args[0].is_string:
        return _instant(text, digits)
    if not args[0].is_int or name != "todatetime" or int(text) * 10**9 not in _DATETIME_NS:
        return None
    return int(text) * 10**9


def _cast_ns(text: str, to: exp.DataType) -> int | None:
    rendered = to.sql(dialect="clickhouse").replace(" ", "")
    digits = {"DateTime": 0, "DateTime('UTC')": 0, "Date": -1, "DATE": -1, "DateTime64(9)": 9,
              "DateTime64(9,'UTC')": 9, "DateTime64(6)": 6, "DateTime64(3)": 3}  # fmt: skip
    return _instant(text, digits[rendered]) if rendered in digits else None


def _instant(text: str, digits: int) -> int | None:
    """`text` as a time with that many fraction digits (0: DateTime, -1: Date); None where it does not fit exactly."""
    if _DATE.fullmatch(text):
        text += " 00:00:00"
    elif digits < 0:
        return None
    fraction = text.partition(".")[2]
    if len(fraction) > max(digits, 0):
        return None
    try:
        at = parse_time_ns(f"{text}Z", "")
    except InvalidArgument:
        return None
    return at if (at in _DATETIME_NS if digits <= 0 else at >= TIME_MIN) else None


def _interval_ns(node: exp.Interval) -> int | None:
    unit = _UNITS_NS.get(str(node.args.get("unit") or "").upper().removesuffix("S"))
    count = node.this
    if unit is None or not isinstance(count, exp.Literal) or not re.fullmatch(r"\d{1,12}", count.this):
        return None
    return int(count.this) * unit
