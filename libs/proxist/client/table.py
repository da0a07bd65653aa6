"""One table through a connection or a session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from proxist.client.acks import Ack
from proxist.client.answer import Answer
from proxist.client.prepared import PreparedAsof, PreparedLastBy
from proxist.client.queries import names
from proxist.client.spooled import SpooledWriter
from proxist.client.times import to_duration_ns
from proxist.client.verbs import Aggs, Duration, Keys, Time
from proxist.client.writer import Writer
from proxist.errors import InvalidArgument
from proxist.hot.ops import DIRECTIONS
from proxist.model.table import TableSpec

if TYPE_CHECKING:
    from proxist.client.connection import Connection


class Table:
    """`connection.table("trades")`: a name and a connection; nothing is asked before a method is called.

    The query verbs are those of `Verbs`, without the table's name.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name

    @property
    def spec(self) -> TableSpec:
        """The table's spec. Raises NotFound that names the tables there are."""
        return self._connection.table_map(self.name, fresh=False).spec

    def write(self, rows: Any, *, durability: str | None = None, timeout_s: float | None = None) -> Ack:
        """Write rows (Arrow, polars, pandas, a dict of columns, a list of dicts); returns when they are acknowledged.

        The connection keeps one writer per table and durability for these calls, with a producer name of its own, so a
        break in between stores nothing twice. For streams of batches, or numbers that outlive the process, see `writer`.
        """
        return self._connection.write(self.name, rows, durability=durability, timeout_s=timeout_s)

    @overload
    def writer(self, *, spool: None = None, **settings: Any) -> Writer: ...

    @overload
    def writer(self, *, spool: str | Path, **settings: Any) -> SpooledWriter: ...

    def writer(self, *, spool: str | Path | None = None, **settings: Any) -> Writer | SpooledWriter:
        """A pipelined `Writer`: `producer`, `first_seq`, `durability`, `window`, `retry_s`. Close it, or use `with`.

        With `spool` (a directory), `producer`, and perhaps `spool_bytes` and `spool_durability`, a `SpooledWriter`: rows
        are on this machine's disk before they are on their way.
        """
        if spool is not None:
            return SpooledWriter(self._connection, self.name, spool=spool, **settings)
        return Writer(self._connection, self.name, **settings)

    def last_by(self, keys: Keys = None, columns: Any = None, *, at: Time = None, **options: Any) -> Answer:
        return self._connection.last_by(self.name, keys, columns, at=at, **options)

    def first_by(self, keys: Keys = None, columns: Any = None, *, at: Time = None, **options: Any) -> Answer:
        return self._connection.first_by(self.name, keys, columns, at=at, **options)

    def scan(
        self,
        keys: Keys = None,
        columns: Any = None,
        *,
        start: Time = None,
        stop: Time = None,
        limit: int | None = None,
        **options: Any,
    ) -> Answer:
        return self._connection.scan(self.name, keys, columns, start=start, stop=stop, limit=limit, **options)

    def asof(self, left: Any, columns: Any = None, **settings: Any) -> Answer:
        """For each row of `left` (probes, a Table or a table's name) this table's row as of its time; see `Verbs.asof`."""
        left = left.name if isinstance(left, Table) else left
        return self._connection.asof(left, self.name, columns, **settings)

    def window(
        self,
        keys: Keys = None,
        aggs: Aggs = (),
        *,
        range: Duration = None,
        rows: int | None = None,
        start: Time = None,
        stop: Time = None,
        **options: Any,
    ) -> Answer:
        return self._connection.window(self.name, keys, aggs, range=range, rows=rows, start=start, stop=stop, **options)

    def bars(
        self,
        keys: Keys = None,
        aggs: Aggs = (),
        *,
        every: Duration,
        fill: str = "none",
        start: Time = None,
        stop: Time = None,
        **options: Any,
    ) -> Answer:
        return self._connection.bars(self.name, keys, aggs, every=every, fill=fill, start=start, stop=stop, **options)

    def prepare_last_by(
        self, keys: Keys = None, columns: Any = None, *, out: Mapping[str, Any] | None = None
    ) -> PreparedLastBy:
        """A handle that reads each key's last row into numpy arrays, in microseconds where the owners are attached:
        `latest.read()`, then `latest.arrays["price"][0]`.

        `keys` None: those that have rows now, by name; later ones need another handle. `columns` None: all of fixed
        width. `out`: arrays of the caller's by column, with the column's dtype and a cell per key.
        """
        connection, spec = self._connection, self.spec
        listed = names(keys, "keys")
        if listed is None:
            listed = connection.last_by(self.name, None, [spec.key]).column(0).to_pylist()
        return PreparedLastBy(connection, self.name, listed, names(columns, "columns"), out)

    def prepare_asof(
        self,
        keys: Keys,
        columns: Any = None,
        *,
        direction: str = "backward",
        tolerance: Any = None,
        allow_exact: bool = True,
        out: Mapping[str, Any] | None = None,
    ) -> PreparedAsof:
        """A handle that reads the row of keys[i] as of times[i] into numpy arrays: `quotes.read(times)`.

        A key may stand there several times. The rule is that of `Verbs.asof`; the rest as for `prepare_last_by`.
        """
        if direction not in DIRECTIONS:
            raise InvalidArgument(f"`direction` is {direction!r}, but must be one of {', '.join(DIRECTIONS)}.")
        listed = names(keys, "keys") or []
        tolerance_ns = None if tolerance is None else to_duration_ns(tolerance, "tolerance")
        base = (self._connection, self.name, listed, names(columns, "columns"), out)
        return PreparedAsof(*base, direction=direction, tolerance_ns=tolerance_ns, allow_exact=allow_exact)

    def flush(self) -> None:
        """Returns when everything acked before the call is in ClickHouse. Raises Paused, Unavailable."""
        self._connection.flush(self.name)

    def drop(self) -> None:
        self._connection.drop_table(self.name)

    def __repr__(self) -> str:
        return f"<proxist.Table {self.name!r}>"
