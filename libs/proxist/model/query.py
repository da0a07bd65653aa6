"""The JSON query (docs/api.md) as typed values: exactly one verb, and beside it freshness, as_of, completeness, hot_path.

Times are TimeNs; `from_ns` inclusive, `to_ns` exclusive; None means unbounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxist.errors import InvalidArgument
from proxist.model.fields import Fields
from proxist.model.ids import TimeNs
from proxist.model.token import Token, parse_token
from proxist.model.units import parse_duration_ns


@dataclass(frozen=True, slots=True)
class LastBy:
    """Per key the last row, in Order, with time <= `at_ns` (None: of all)."""

    table: str
    keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    at_ns: TimeNs | None = None


@dataclass(frozen=True, slots=True)
class FirstBy:
    """Per key the first row, in Order, with time >= `at_ns` (None: of all)."""

    table: str
    keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    at_ns: TimeNs | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """Rows with time in [from_ns, to_ns), ordered by (time, seq, offset), the first `limit` of them."""

    table: str
    keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Asof:
    """For each left row the right row as of its time. `left` None: the caller's probe rows.

    `direction`: backward takes the last in Order with time <= the left's (with < where `allow_exact` is false),
    forward the first with time >=, nearest the closer, a tie going backward. `tolerance_ns` is inclusive.
    """

    left: Scan | None
    right: str
    columns: tuple[str, ...] | None = None
    direction: str = "backward"
    tolerance_ns: int | None = None
    allow_exact: bool = True


WINDOW_FNS = ("count", "sum", "avg", "min", "max", "first", "last", "stddev", "vwap", "ema")
BARS_FNS = (*WINDOW_FNS, "open", "high", "low", "close")
"""Those of windows, and first, max, min, last under the names of bars."""
WINDOW_ROWS_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Agg:
    """One aggregate of a window or a bar: `fn` over the column `value`; the answer's column is `name`.

    `value` may be absent for count only (then rows are counted); `weight` belongs to vwap, `alpha` (0 < alpha <= 1) to
    ema. Without a `name` it is "<fn>_<value>", "count" where there is no value. Raises InvalidArgument.
    """

    fn: str
    value: str | None = None
    weight: str | None = None
    alpha: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        _check_agg(self.fn in BARS_FNS, "fn", self.fn, f"one of {', '.join(BARS_FNS)}")
        value = _is_name(self.value) or (self.fn == "count" and self.value is None)
        _check_agg(value, "value", self.value, f"a column's name for {self.fn}")
        weight = _is_name(self.weight) if self.fn == "vwap" else self.weight is None
        _check_agg(weight, "weight", self.weight, "a column's name for vwap, and absent for all others")
        alpha = _is_share(self.alpha) if self.fn == "ema" else self.alpha is None
        _check_agg(alpha, "alpha", self.alpha, "above 0 and at most 1 for ema, and absent for all others")
        _check_agg(isinstance(self.name, str), "as", self.name, "the name of the answer's column")
        if not self.name:
            object.__setattr__(self, "name", self.fn if self.value is None else f"{self.fn}_{self.value}")

    def to_json(self) -> dict[str, Any]:
        """As a query writes it: fn, value, weight, alpha, as."""
        out: dict[str, Any] = {"fn": self.fn, "value": self.value, "weight": self.weight, "alpha": self.alpha}
        return {name: value for name, value in out.items() if value is not None} | {"as": self.name}


def agg_from_json(wire: dict[str, Any]) -> Agg:
    """The inverse of `Agg.to_json`; `as` may be absent. Raises InvalidArgument for an unknown field or a wrong value."""
    return _agg(Fields(wire, "an aggregate"), BARS_FNS)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _check_agg(right: bool, field: str, value: object, rule: str) -> None:
    if not right:
        raise InvalidArgument(f"`{field}` of an aggregate is {value!r}, but must be {rule}.")


@dataclass(frozen=True, slots=True)
class Window:
    """Per row with time in [from_ns, to_ns) the aggregates of the window that ends with it, in its key and in Order.

    Exactly one of `range_ns` (the rows with time in (t - range_ns, t], t being the row's) and `rows` (the last so many)
    is given; rows before `from_ns` belong to windows too. ema alone runs over all rows from `from_ns` on.
    """

    table: str
    aggs: tuple[Agg, ...]
    keys: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None
    range_ns: int | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """Per key and interval [n * every_ns, (n + 1) * every_ns) the aggregates of its rows with time in [from_ns, to_ns).

    `fill`: "none" leaves empty bars out; "null" and "prev" give every key of the answer every bar from `from_ns` to
    `to_ns` (where that is None: from the answer's first bar, to its last), with nulls or the bar before's aggregates.
    """

    table: str
    aggs: tuple[Agg, ...]
    every_ns: int
    keys: tuple[str, ...] | None = None
    from_ns: TimeNs | None = None
    to_ns: TimeNs | None = None
    fill: str = "none"


@dataclass(frozen=True, slots=True)
class Sql:
    """A SELECT in the ClickHouse dialect."""

    text: str


Verb = LastBy | FirstBy | Scan | Asof | Window | Bars | Sql


@dataclass(frozen=True, slots=True)
class Freshness:
    """`min_token`: what the answer must have seen, waiting `wait_ns` at most; then `on_stale`: "error" or "hot"."""

    min_token: Token | None = None
    wait_ns: int = 2_000_000_000
    on_stale: str = "error"


@dataclass(frozen=True, slots=True)
class Query:
    verb: Verb
    freshness: Freshness = field(default_factory=Freshness)
    as_of: Token | None = None
    completeness: str = "strict"
    hot_path: str = "auto"
    id: Any = None
    """The caller's name for the query in a session or for `cancel`; echoed, never interpreted."""


def parse_query(wire: Any) -> Query:
    """Read a query from JSON text, bytes or an object. Raises InvalidArgument that names field, value, rule, remedy."""
    if isinstance(wire, str | bytes):
        try:
            wire = json.loads(wire)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f'The query is not JSON ({error}). Send for example {{"sql": "SELECT 1"}}.') from None
    fields = Fields(wire, "the query")
    verbs = [name for name in _VERBS if name in fields.wire]
    if len(verbs) != 1:
        raise InvalidArgument(
            f"The query has {' and '.join(verbs) or 'no verb'}, but exactly one verb is needed: {', '.join(_VERBS)}."
        )
    as_of = fields.take("as_of")
    query = Query(
        verb=_VERBS[verbs[0]](fields.take(verbs[0])),
        freshness=_freshness(fields.take("freshness")),
        as_of=None if as_of is None else parse_token(as_of),
        completeness=fields.choice("completeness", ("strict", "best_effort")),
        hot_path=fields.choice("hot_path", ("auto", "attach", "flight")),
        id=fields.take("id"),
    )
    fields.refuse_rest()
    return query


def _last_by(wire: Any) -> LastBy:
    fields = Fields(wire, "last_by")
    verb = LastBy(fields.name("table"), fields.names("keys"), fields.names("columns"), fields.time("at"))
    fields.refuse_rest()
    return verb


def _first_by(wire: Any) -> FirstBy:
    fields = Fields(wire, "first_by")
    verb = FirstBy(fields.name("table"), fields.names("keys"), fields.names("columns"), fields.time("at"))
    fields.refuse_rest()
    return verb


def _scan(wire: Any, subject: str = "scan") -> Scan:
    fields = Fields(wire, subject)
    verb = Scan(
        table=fields.name("table"),
        keys=fields.names("keys"),
        columns=fields.names("columns"),
        from_ns=fields.time("from"),
        to_ns=fields.time("to"),
        limit=fields.count("limit"),
    )
    fields.refuse_rest()
    return verb


def _asof(wire: Any) -> Asof:
    fields = Fields(wire, "asof")
    left = fields.take("left")
    probe = isinstance(left, dict) and left.get("probe") is True
    right = Fields(fields.take("right"), "`right` of asof")
    tolerance = fields.take("tolerance")
    verb = Asof(
        left=None if probe else _scan(left, "`left` of asof"),
        right=right.name("table"),
        columns=right.names("columns"),
        direction=fields.choice("direction", ("backward", "forward", "nearest")),
        tolerance_ns=None if tolerance is None else parse_duration_ns(tolerance, "`tolerance` of asof"),
        allow_exact=fields.boolean("allow_exact", True),
    )
    right.refuse_rest()
    fields.refuse_rest()
    return verb


def _window(wire: Any) -> Window:
    fields = Fields(wire, "window")
    verb = Window(
        table=fields.name("table"),
        aggs=_aggs(fields, WINDOW_FNS),
        keys=fields.names("keys"),
        from_ns=fields.time("from"),
        to_ns=fields.time("to"),
        range_ns=fields.duration("range"),
        rows=fields.count("rows", 1, WINDOW_ROWS_MAX),
    )
    fields.refuse_rest()
    if (verb.range_ns is None) == (verb.rows is None):
        both = "neither `range` nor `rows`" if verb.rows is None else "both `range` and `rows`"
        raise InvalidArgument(f'The window has {both}, but must have one. Write for example "range": "5m".')
    return verb


def _bars(wire: Any) -> Bars:
    fields = Fields(wire, "bars")
    every_ns = fields.duration("every")
    if every_ns is None:
        raise fields.wrong("every", None, 'a duration such as "1s"')
    verb = Bars(
        table=fields.name("table"),
        aggs=_aggs(fields, BARS_FNS),
        every_ns=every_ns,
        keys=fields.names("keys"),
        from_ns=fields.time("from"),
        to_ns=fields.time("to"),
        fill=fields.choice("fill", ("none", "null", "prev")),
    )
    fields.refuse_rest()
    return verb


def _aggs(fields: Fields, fns: tuple[str, ...]) -> tuple[Agg, ...]:
    aggs = tuple(_agg(one, fns) for one in fields.objects("aggs"))
    names = [agg.name for agg in aggs]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise InvalidArgument(f'Two aggregates are named {twice[0]!r}. Name one of them otherwise with "as".')
    return aggs


def _agg(fields: Fields, fns: tuple[str, ...]) -> Agg:
    fn = fields.take("fn")
    if fn not in fns:
        raise fields.wrong("fn", fn, f"one of {', '.join(fns)}")
    value, weight, alpha, name = (fields.take(one) for one in ("value", "weight", "alpha", "as"))
    fields.refuse_rest()
    return Agg(fn, value, weight, alpha, "" if name is None else name)


def _sql(wire: Any) -> Sql:
    if not isinstance(wire, str) or not wire.strip():
        raise InvalidArgument(f"`sql` is {json.dumps(wire)[:80]}, but must be the text of a SELECT.")
    return Sql(wire)


def _freshness(wire: Any) -> Freshness:
    if wire is None:
        return Freshness()
    fields = Fields(wire, "`freshness`")
    token, wait_ms = fields.take("min_token"), fields.count("wait_ms")
    freshness = Freshness(
        min_token=None if token is None else parse_token(token),
        wait_ns=Freshness().wait_ns if wait_ms is None else wait_ms * 1_000_000,
        on_stale=fields.choice("on_stale", ("error", "hot")),
    )
    fields.refuse_rest()
    return freshness


_VERBS: dict[str, Callable[[Any], Verb]] = {
    "sql": _sql,
    "last_by": _last_by,
    "first_by": _first_by,
    "asof": _asof,
    "window": _window,
    "bars": _bars,
    "scan": _scan,
}
