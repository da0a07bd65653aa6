"""Order as the tie-break of whatever would else be left to the engine: which rows LIMIT keeps, how equal rows sort.

The order columns of a SELECT are those of its sources: time, seq, `_offset`, `_log` of a table of ours (`_log` parts
rows of two shards), and of a plain sub-select what it passes on under hidden names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from proxist.sql.dialect import LIMIT_AFTER_BY, RESERVED
from proxist.sql.functions import BY_POSITION, WINDOW_ONLY, aggregate_parts, function_name, words
from proxist.sql.scopes import TABLE_KEY, Source, common_table, own_nodes, sources

FIRSTS = words(
    "any any_value first_value any_respect_nulls anyrespectnulls first_value_respect_nulls firstvaluerespectnulls"
)
LASTS = words(
    "anylast last_value anylast_respect_nulls anylastrespectnulls last_value_respect_nulls lastvaluerespectnulls"
)
PASSED = f"{RESERVED}o"
"""Order columns that a sub-select passes on: this and a number."""


@dataclass(slots=True)
class Ties:
    """Breaks ties in a statement's SELECTs, inner ones first where outer ones need their order columns."""

    passed: dict[int, list[str]] = field(default_factory=dict)
    """By id of a sub-select: the names of the order columns that it passes on."""
    names_max: int = 0

    def columns(self, select: exp.Select) -> list[exp.Column]:
        """The order columns of all sources of `select`; none where it reads nothing that has an order."""
        return [column for source in sources(select) for column in self.of_source(source)]

    def of_source(self, source: Source) -> list[exp.Column]:
        if source.table is not None:
            spec = source.table.spec
            return [exp.column(name, table=source.alias) for name in (*spec.order, "_offset", "_log")]
        if source.select is not None:
            # A sub-select without an alias: its hidden names are its own, so they need no qualifier.
            return [exp.column(name, table=source.alias or None) for name in self._pass_on(source.select)]
        return []

    def part_all(self, select: exp.Select) -> bool:
        """Whether the order columns tell all rows of `select` apart: not where a source has none (a UNION, DISTINCT),
        and not where arrays are unfolded."""
        entries = sources(select)
        if len(entries) == 1 and entries[0].select is not None and entries[0].select.args.get("order") is not None:
            return True  # it comes sorted, as the query asks
        return not (
            any(j.kind == "ARRAY" for j in select.args.get("joins") or ())
            or any((function_name(node) or "").lower() == "arrayjoin" for node in own_nodes(select))
            or any(reads_tables(entry.node) and not self.of_source(entry) for entry in entries)
        )

    def _pass_on(self, select: exp.Select) -> list[str]:
        """Make a sub-select give its order columns under hidden names; none where that would change its rows."""
        if id(select) in self.passed:
            return self.passed[id(select)]
        self.passed[id(select)] = []
        if is_distinct(select) or isinstance(select.parent, exp.SetOperation):
            return []
        keys = group_keys(select) if is_aggregate(select) else self.columns(select)
        names = [f"{PASSED}{i}" for i in range(len(keys))]
        for name, key in zip(names, keys, strict=True):
            select.append("expressions", exp.alias_(key.copy(), name))
        self.names_max = max(self.names_max, len(names))
        self.passed[id(select)] = names
        return names

    def sort(self, select: exp.Select, *, outermost: bool) -> None:
        """Complete ORDER BY where it decides something: in the outermost SELECT, beside LIMIT, in a sorted sub-select."""
        order, limit = select.args.get("order"), select.args.get("limit")
        after = limit.args.get(LIMIT_AFTER_BY) if limit is not None else None
        with_ties = any(
            one.args["limit_options"].args.get("with_ties")
            for one in (limit, after)
            if one is not None and one.args.get("limit_options")
        )
        picks = order or limit or select.args.get("offset") or (select.args.get("distinct") and not is_distinct(select))
        if not (outermost or picks) or with_ties:
            return
        terms = list(order.expressions) if order is not None else []
        if any(t.args.get("with_fill") or _is_all(t.this) for t in terms):
            return
        ties: Sequence[exp.Expr] = []
        by_value = is_distinct(select)
        if not by_value and is_aggregate(select):
            ties = group_keys(select)
        elif not by_value:
            ties, by_value = self.columns(select), not self.part_all(select)
        if by_value:
            ties = [*ties, by_values(select)] if terms or ties else [exp.column("ALL")]
        if ties:
            descending = _descends(terms, ties)
            extra = [exp.Ordered(this=tie.copy(), desc=descending, nulls_first=False) for tie in ties]
            select.set("order", exp.Order(expressions=[*terms, *extra]))


def is_aggregate(select: exp.Select) -> bool:
    """Whether `select` groups, or has an aggregate outside of a window."""
    if select.args.get("group") is not None or select.args.get("having") is not None:
        return True
    return any(_aggregates(node) and not in_window(node) for node in own_nodes(select))


def _aggregates(node: exp.Expr) -> bool:
    name = function_name(node)
    parts = aggregate_parts(name) if name is not None else None
    return parts is not None and parts[0] not in WINDOW_ONLY


def in_window(node: exp.Expr) -> bool:
    """Whether a function is called with OVER."""
    parent = node.parent
    while isinstance(parent, exp.IgnoreNulls | exp.RespectNulls | exp.Filter):
        parent = parent.parent
    return isinstance(parent, exp.Window)


def group_keys(select: exp.Select) -> list[exp.Expr]:
    """What no two rows of a GROUP BY share: its expressions, and which of them a row of ROLLUP, CUBE or sets is for."""
    group = select.args.get("group")
    if group is None:
        return []
    if group.args.get("all"):
        plain = [p.this if isinstance(p, exp.Alias) else p for p in select.expressions]
        return [p for p in plain if not any(_aggregates(node) and not in_window(node) for node in p.walk())]
    keys, sets = [], any(group.args.get(name) for name in ("rollup", "cube", "grouping_sets"))
    for key in group.expressions:
        if isinstance(key, exp.GroupingSets | exp.Rollup | exp.Cube):
            sets = True
            keys += [one for part in key.expressions for one in (part.expressions or [part.unnest()])]
        else:
            keys.append(key)
    keys = list(dict.fromkeys(keys))
    return [*keys, exp.Anonymous(this="grouping", expressions=[k.copy() for k in keys])] if sets and keys else keys


def is_distinct(select: exp.Select) -> bool:
    """DISTINCT over whole rows; DISTINCT ON (keys) picks rows, as LIMIT 1 BY keys does."""
    distinct = select.args.get("distinct")
    return distinct is not None and distinct.args.get("on") is None


def by_values(select: exp.Select) -> exp.Expr:
    """The values of a row of the answer as one term."""
    values = [p.this if isinstance(p, exp.Alias) else p for p in select.expressions]
    return exp.Anonymous(this="tuple", expressions=[v.copy() for v in values])


def reads_tables(node: exp.Expr) -> bool:
    """Whether rows of a table of ours are in what `node` gives."""
    tables = list(node.find_all(exp.Table))
    bodies = [common_table(t) for t in tables if TABLE_KEY not in t.meta and isinstance(t.this, exp.Identifier)]
    return any(TABLE_KEY in t.meta for t in tables) or any(body is not None and reads_tables(body) for body in bodies)


def _is_all(node: exp.Expr) -> bool:
    return isinstance(node, exp.Column) and not node.table and node.name.upper() == "ALL"


def _descends(terms: Sequence[exp.Expr], ties: Sequence[exp.Expr]) -> bool:
    """`ORDER BY time DESC` asks for the latest first, so among equal times the last in Order comes first."""
    names = {tie.name for tie in ties if isinstance(tie, exp.Column)}
    return any(t.args.get("desc") and isinstance(t.this, exp.Column) and t.this.name in names for t in terms)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a window says, with what it takes over from a named one."""

    partition: list[exp.Expr]
    terms: list[exp.Ordered]
    spec: exp.WindowSpec | None


def frame_of(window: exp.Window, select: exp.Select) -> Frame | None:
    """None where the window's name is not known in `select`."""
    name = window.args.get("alias")
    base = Frame([], [], None)
    if name is not None:
        named = next((w for w in select.args.get("windows") or () if w.this.name == name.name), None)
        found = frame_of(named, select) if named is not None else None
        if found is None:
            return None
        base = found
    order = window.args.get("order")
    return Frame(
        list(window.args.get("partition_by") or base.partition),
        list(order.expressions) if order is not None else base.terms,
        window.args.get("spec") or base.spec,
    )


def sort_windows(select: exp.Select, ties: Ties) -> None:
    """Complete the ORDER BY of windows whose functions depend on where among its peers a row stands."""
    for node in list(own_nodes(select)):
        if not isinstance(node, exp.Window) or node.args.get("over") is None:
            continue
        name, frame = function_name(_bare(node.this)), frame_of(node, select)
        if name is None or frame is None or not by_position(name.lower(), frame.spec):
            continue
        columns = ties.columns(select)
        if not columns:
            continue
        extra = [exp.Ordered(this=c, desc=_descends(frame.terms, columns), nulls_first=False) for c in columns]
        node.set("alias", None)
        node.set("partition_by", [p.copy() for p in frame.partition])
        node.set("order", exp.Order(expressions=[*(t.copy() for t in frame.terms), *extra]))
        node.set("spec", frame.spec.copy() if frame.spec is not None else None)


def by_position(name: str, spec: exp.WindowSpec | None) -> bool:
    """Whether a window function depends on where among its peers a row stands, and on no row that is only its peer."""
    kind, start, end = (str(spec.args.get(k) or "").upper() for k in ("kind", "start", "end")) if spec else ("", "", "")
    if kind == "ROWS" or name in BY_POSITION:
        return True
    if name in FIRSTS:
        return start in ("", "UNBOUNDED")
    return name in LASTS and end == "UNBOUNDED"


def _bare(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.IgnoreNulls | exp.RespectNulls | exp.Filter):
        node = node.this
    return node
