"""The query verbs, the same on a connection, a session and a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa

from proxist.client import queries
from proxist.client.answer import Answer
from proxist.client.frames import to_table

Keys = Any
"""A key, a list of keys, or None for all."""
Time = Any
"""int nanoseconds, RFC 3339 string, datetime, date, numpy.datetime64 or pandas.Timestamp; see `times.to_time_ns`."""
Duration = Any
"""int nanoseconds, a string such as "10ms", timedelta, numpy.timedelta64 or pandas.Timedelta; see `times.to_duration_ns`."""
Aggs = Any
"""One aggregate or a list of them: `{"fn": "vwap", "value": "price", "weight": "size", "as": "vwap"}`; see docs/api.md."""


class Verbs(ABC):
    """Each verb takes, beside its own arguments, these options:

    `min_token` (see at least what this token saw), `wait_ms` (how long to wait for it, default 2,000), `on_stale`
    ("error" or "hot"), `as_of` (a token: the rows as they were known then), `hot_path` ("auto", "attach", "flight") and
    `completeness` ("strict", "best_effort"). Raises the classes of `proxist.errors`.
    """

    @abstractmethod
    def query(self, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> Answer:
        """Any JSON query of the public surface; `probes` are the rows of `left: {"probe": true}`."""

    def last_by(self, table: str, keys: Keys = None, columns: Any = None, *, at: Time = None, **options: Any) -> Answer:
        """Per key the last row, in Order, with time <= `at` (None: of all); ordered by key, the key column first."""
        return self.query({"last_by": queries.point(table, keys, columns, at), **queries.options(**options)})

    def first_by(
        self, table: str, keys: Keys = None, columns: Any = None, *, at: Time = None, **options: Any
    ) -> Answer:
        """Per key the first row, in Order, with time >= `at` (None: of all); ordered by key, the key column first."""
        return self.query({"first_by": queries.point(table, keys, columns, at), **queries.options(**options)})

    def scan(
        self,
        table: str,
        keys: Keys = None,
        columns: Any = None,
        *,
        start: Time = None,
        stop: Time = None,
        limit: int | None = None,
        **options: Any,
    ) -> Answer:
        """Rows with time in [start, stop), ordered by (time, seq, offset), the first `limit` of them."""
        body = queries.scan(table, keys, columns, start, stop, limit)
        return self.query({"scan": body, **queries.options(**options)})

    def asof(
        self,
        left: Any,
        table: str,
        columns: Any = None,
        *,
        direction: str = "backward",
        tolerance: Any = None,
        allow_exact: bool = True,
        left_keys: Keys = None,
        left_columns: Any = None,
        start: Time = None,
        stop: Time = None,
        **options: Any,
    ) -> Answer:
        """For each row of `left` the row of `table` as of its time.

        `left`: the name of a table (its rows of `left_keys` in [start, stop) with `left_columns`), or probes: any rows with
        columns named as `table`'s key and time. One answer row per left row, in the left's order: the left's columns, then
        `columns` of `table` (null where unmatched, clashes with the suffix `_right`).
        `direction`: "backward" takes the last row with time <= the probe's (< without `allow_exact`), "forward" the first
        with time >=, "nearest" the closer of both. `tolerance` ("10ms", timedelta, int ns) is inclusive.
        """
        if isinstance(left, str):
            body, probes = queries.scan(left, left_keys, left_columns, start, stop, None), None
        else:
            body, probes = {"probe": True}, probe_batch(left)
        verb = queries.asof(body, table, columns, direction, tolerance, allow_exact)
        return self.query({"asof": verb, **queries.options(**options)}, probes)

    def window(
        self,
        table: str,
        keys: Keys = None,
        aggs: Aggs = (),
        *,
        range: Duration = None,
        rows: int | None = None,
        start: Time = None,
        stop: Time = None,
        **options: Any,
    ) -> Answer:
        """For each row with time in [start, stop) the aggregates of the window that ends with it, in its key.

        The window of a row at time t: the rows with time in (t - `range`, t], up to the row itself in Order, or the last
        `rows` rows; exactly one of both is given. Rows before `start` belong to windows too. Answer: key, time, seq (if
        the table has one), the aggregates; ordered by (time, seq, offset).
        """
        body = queries.window(table, keys, aggs, start, stop, range, rows)
        return self.query({"window": body, **queries.options(**options)})

    def bars(
        self,
        table: str,
        keys: Keys = None,
        aggs: Aggs = (),
        *,
        every: Duration,
        fill: str = "none",
        start: Time = None,
        stop: Time = None,
        **options: Any,
    ) -> Answer:
        """Per key and bar [b, b + `every`), aligned to the epoch, the aggregates of its rows with time in [start, stop).

        Answer: key, the bar's start (named as the table's time), the aggregates; ordered by (start, key). `fill`: "none"
        leaves empty bars out; "null" and "prev" give every key of the answer every bar from `start` to `stop` (of an open
        end, from the answer's first or to its last bar), an empty one with nulls or with the values of the bar before.
        """
        body = queries.bars(table, keys, aggs, start, stop, every, fill)
        return self.query({"bars": body, **queries.options(**options)})

    def sql(self, text: str, **options: Any) -> Answer:
        """A SELECT in the ClickHouse dialect."""
        return self.query({"sql": text, **queries.options(**options)})


def probe_batch(rows: Any) -> pa.RecordBatch:
    """Probes as one batch: strings as `string`, times as nanoseconds in UTC (a time without a zone is UTC)."""
    table = to_table(rows)
    fields = [pa.field(field.name, _probe_type(field.type)) for field in table.schema]
    if isinstance(rows, pa.RecordBatch) and rows.schema.equals(pa.schema(fields), check_metadata=True):
        return rows
    return table.combine_chunks().cast(pa.schema(fields)).to_batches()[0] if table.num_rows else _empty(fields)


def _probe_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(type_):
        return pa.timestamp("ns", tz="UTC")
    inner = type_.value_type if pa.types.is_dictionary(type_) else type_
    is_text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
    return pa.string() if is_text else type_


def _empty(fields: list[pa.Field]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=pa.schema(fields))
