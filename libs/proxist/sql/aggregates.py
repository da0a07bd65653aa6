"""Aggregates that choose a row among equals: the Order chooses.

argMin(x, y) and argMax(x, y) compare (y, time, seq, offset, log): of equal y the first and the last in Order. any and
first_value, anyLast and last_value, which take what the engine meets first or last, become argMin and argMax over the
Order itself; groupArray sorts by it.
"""

from __future__ import annotations

from sqlglot import exp

from proxist.sql.functions import WINDOW_ONLY, aggregate_parts, function_name, words
from proxist.sql.order import Ties, by_position, frame_of, in_window, reads_tables
from proxist.sql.scopes import Source, own_nodes, sources

_EXTREMES = {"argmin": "argMin", "min_by": "argMin", "argmax": "argMax", "max_by": "argMax"}
_FIRSTS = {"any", "any_value", "first_value"}
_LASTS = {"anylast", "last_value"}
_RESPECT = {
    "anyrespectnulls": "argMin", "any_respect_nulls": "argMin", "any_value_respect_nulls": "argMin",
    "anyvaluerespectnulls": "argMin", "first_value_respect_nulls": "argMin", "firstvaluerespectnulls": "argMin",
    "anylastrespectnulls": "argMax", "anylast_respect_nulls": "argMax", "last_value_respect_nulls": "argMax",
    "lastvaluerespectnulls": "argMax",
}  # fmt: skip
_COMBINATORS = {(): "", ("if",): "If", ("ornull",): "OrNull", ("ordefault",): "OrDefault"}
_EXTREME_COMBINATORS = _COMBINATORS | {
    ("state",): "State", ("if", "state"): "IfState", ("state", "if"): "StateIf",
    ("ornull", "if"): "OrNullIf", ("if", "ornull"): "IfOrNull",
}  # fmt: skip
_UNIQUE = words("groupuniqarray grouparraydistinct")
_IN_ARRIVAL = words(
    "grouparraylast grouparrayinsertat grouparraymovingsum grouparraymovingavg groupconcat group_concat string_agg "
    "array_concat_agg deltasum deltasumtimestamp exponentialmovingaverage largesttrianglethreebuckets lttb quantile quantiles median quantiletdigest quantilestdigest "
    "mediantdigest quantilegk quantilesgk histogram simplelinearregression sequencenextnode sequencematch sequencecount "
    "windowfunnel singlevalueornull stochasticlinearregression stochasticlogisticregression boundingratio"
)
"""Aggregates whose value depends on the order in which rows arrive."""
_CHOOSE = _FIRSTS | _LASTS | set(_RESPECT)
_ARRAYS = {"grouparray", "array_agg"}
_NULL_MAKERS = ("null", "ornull", "nullif")


def break_ties(select: exp.Select, ties: Ties) -> None:
    """Rewrite the choosing aggregates of `select` in place."""
    entries = sources(select)
    for node in list(own_nodes(select)):
        name = function_name(node)
        parts = aggregate_parts(name) if name is not None else None
        if parts is None:
            continue
        suffix = _COMBINATORS.get(parts[1])
        if parts[0] in _EXTREMES and parts[1] in _EXTREME_COMBINATORS:
            _extreme(node, _EXTREMES[parts[0]], _EXTREME_COMBINATORS[parts[1]], select, entries, ties)
        elif suffix is None:
            continue
        elif parts[0] in _FIRSTS | _LASTS or parts[0] in _RESPECT:
            _by_position(node, parts[0], suffix, select, entries, ties)
        elif parts[0] in ("grouparray", "array_agg"):
            _array(node, suffix, select, entries, ties)
    for node in list(own_nodes(select)):
        name = function_name(node)
        if name is not None and name.lower() in _UNIQUE and not in_window(node) and reads_tables(select):
            node.replace(_call("arraySort", node.copy()))


def left_open(select: exp.Select) -> list[str]:
    """The aggregates of `select`, as `name()`, that choose or collect by the order in which the engine meets rows, and
    that `break_ties` and `sort_windows` leave so. Before these."""
    entries = sources(select)
    if _reads_sorted(entries) or not reads_tables(select):
        return []
    found = []
    for node in own_nodes(select):
        name = function_name(node)
        parts = aggregate_parts(name) if name is not None else None
        if parts is None or parts[1][-1:] == ("merge",) or (name or "").lower() in _UNIQUE:
            continue
        base, combinators = parts
        if in_window(node):
            window = node.find_ancestor(exp.Window)
            frame = frame_of(window, select) if window is not None else None
            spec = frame.spec if frame is not None else None
            kept = (
                base in _EXTREMES
                or base in WINDOW_ONLY
                or by_position(base, spec)
                or _spans_order(node, select, entries)
            )
            collects = base in _IN_ARRIVAL or base in _ARRAYS
            open_ = (collects and not by_position(base, spec)) or (base in _CHOOSE and not kept)
        elif base in _EXTREMES:
            open_ = combinators not in _EXTREME_COMBINATORS
        else:
            sized = isinstance(node, exp.ParameterizedAgg) and combinators
            open_ = base in _IN_ARRIVAL or (
                base in _CHOOSE | _ARRAYS and (combinators not in _COMBINATORS or bool(sized))
            )
            open_ = open_ or (base in _ARRAYS and combinators not in ((), ("if",)))
        if open_:
            found.append(f"{name}()")
    return found


def _call(name: str, *args: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(args))


def _order(
    first: exp.Expr | None, value: exp.Expr, select: exp.Select, entries: list[Source], ties: Ties
) -> list[exp.Expr]:
    """The order columns, those of the source of `first` before the others; then `value` itself, where these do not tell
    all rows apart: of rows that are equal in everything else, which one it is cannot be seen."""
    owner = next((c.table for c in first.find_all(exp.Column)), "") if first is not None else ""
    ranked = sorted(entries, key=lambda source: source.alias != owner)
    columns: list[exp.Expr] = [column for source in ranked for column in ties.of_source(source)]
    return columns if ties.part_all(select) else [*columns, value.copy()]


def _extreme(node: exp.Expr, name: str, suffix: str, select: exp.Select, entries: list[Source], ties: Ties) -> None:
    args = list(node.expressions)
    if len(args) < 2:
        return
    by, rest = args[1], args[2:]
    columns = _order(by, args[0], select, entries, ties)
    if not columns:
        return
    if not _may_be_null(by, entries):
        node.replace(_call(name + suffix, args[0], _call("tuple", by.copy(), *columns), *rest))
        return
    # A null in a tuple compares as the largest, where argMin and argMax leave the row out; the answer is nullable.
    known = _call("isNotNull", by.copy())
    condition = exp.and_(known, *rest) if rest else known
    ranked = _call("tuple", _call("assumeNotNull", by.copy()), *columns)
    combined = {"OrDefault": "OrDefaultIf"}.get(suffix, "OrNullIf") + ("State" if "State" in suffix else "")
    node.replace(_call(name + combined, args[0], ranked, condition))


def _may_be_null(node: exp.Expr, entries: list[Source]) -> bool:
    if node.find(exp.Null):
        return True
    for call in node.walk():
        name = function_name(call)
        if name is not None and name.lower().endswith(_NULL_MAKERS):
            return True
        if isinstance(call, exp.Column) and _column_may_be_null(call, entries):
            return True
    return False


def _column_may_be_null(column: exp.Column, entries: list[Source]) -> bool:
    for entry in entries:
        if column.table and column.table != entry.alias:
            continue
        if entry.table is None:
            return True
        found = [c for c in entry.table.spec.columns if c.name == column.name]
        if found:
            return found[0].nullable
    return column.name not in ("_offset", "_log")


def _by_position(node: exp.Expr, base: str, suffix: str, select: exp.Select, entries: list[Source], ties: Ties) -> None:
    """any(x) and its kin. Over a sorted sub-select the query itself has said which row is first: left alone."""
    args = list(node.expressions)
    columns = _order(None, args[0], select, entries, ties) if args else []
    if (
        not columns
        or not args
        or _reads_sorted(entries)
        or (in_window(node) and not _spans_order(node, select, entries))
    ):
        return
    wrapper = node.parent if isinstance(node.parent, exp.IgnoreNulls | exp.RespectNulls) else None
    name = _RESPECT.get(base) or ("argMin" if base in _FIRSTS else "argMax")
    order = _call("tuple", *columns)
    if base in _RESPECT or isinstance(wrapper, exp.RespectNulls):
        if in_window(node):
            return
        held = _call(name + suffix, _call("tuple", args[0]), order, *args[1:])
        (wrapper or node).replace(_call("tupleElement", held, exp.Literal.number(1)))
        return
    (wrapper or node).replace(_call(name + suffix, args[0], order, *args[1:]))


def _spans_order(node: exp.Expr, select: exp.Select, entries: list[Source]) -> bool:
    """Whether a window's own order is the time ascending, or none: then its first and last are those of Order."""
    window = node.find_ancestor(exp.Window)
    frame = frame_of(window, select) if window is not None else None
    if frame is None:
        return False
    times = {entry.table.spec.time for entry in entries if entry.table is not None}
    return all(not t.args.get("desc") and isinstance(t.this, exp.Column) and t.this.name in times for t in frame.terms)


def _array(node: exp.Expr, suffix: str, select: exp.Select, entries: list[Source], ties: Ties) -> None:
    """groupArray(x): the pairs (order, x) sorted, then x of each; of groupArray(n)(x) the first n. Outside of windows."""
    sized = isinstance(node, exp.ParameterizedAgg)
    args = list(node.args["params"] if sized else node.expressions)
    if suffix not in ("", "If") or (sized and suffix) or in_window(node) or not args or _reads_sorted(entries):
        return
    columns = _order(None, args[0], select, entries, ties)
    if not columns:
        return
    # tuple(x) keeps a null that groupArray would leave out.
    known = [_call("isNotNull", args[0].copy())]
    condition = exp.and_(*known, *args[1:])
    pairs = _call("groupArrayIf", _call("tuple", _call("tuple", *columns), args[0].copy()), condition)
    pair = exp.to_identifier("__px_p")
    value = _call("tupleElement", exp.column(pair.copy()), exp.Literal.number(2))
    if _may_be_null(args[0], entries):
        value = _call("assumeNotNull", value)
    whole = _call("arrayMap", exp.Lambda(this=value, expressions=[pair]), _call("arraySort", pairs))
    if sized:
        whole = _call("arraySlice", whole, exp.Literal.number(1), *(e.copy() for e in node.expressions[:1]))
    node.replace(whole)


def _reads_sorted(entries: list[Source]) -> bool:
    return any(e.select is not None and e.select.args.get("order") is not None for e in entries)
