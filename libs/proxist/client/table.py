"""One table through a connection or a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxist.client.acks import Ack
from proxist.client.answer import Answer
from proxist.client.verbs import Aggs, Duration, Keys, Time
from proxist.client.writer import Writer
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

    def writer(self, **settings: Any) -> Writer:
        """A pipelined `Writer`: `producer`, `first_seq`, `durability`, `window`, `retry_s`. Close it, or use `with`."""
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

    def flush(self) -> None:
        """Returns when everything acked before the call is in ClickHouse. Raises Paused, Unavailable."""
        self._connection.flush(self.name)

    def drop(self) -> None:
        self._connection.drop_table(self.name)

    def __repr__(self) -> str:
        return f"<proxist.Table {self.name!r}>"
