"""What a query returns: an Arrow table with its receipt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from proxist.errors import ConfigError, InternalError

if TYPE_CHECKING:
    import pandas
    import polars


def parse_receipt(raw: bytes | None) -> dict[str, Any]:
    """A receipt from schema metadata or app_metadata, where it may stand inside `{"receipt": …}`; {} for none."""
    if not raw:
        return {}
    try:
        parsed = json.loads(raw)
    except ValueError:
        raise InternalError("The server sent a receipt that is not JSON. Report it with both versions.") from None
    return dict(parsed.get("receipt", parsed)) if isinstance(parsed, dict) else {}


class Answer:
    """Rows of one query and what they were made of.

    It reads like a `pyarrow.Table` (`num_rows`, `column_names`, `schema`, `answer["price"]`, `to_pylist()`, and the
    Arrow C stream, so polars, pandas and duckdb take it as it is); `to_arrow()` is the table itself.
    """

    def __init__(self, table: pa.Table, receipt: Mapping[str, Any] | bytes | None) -> None:
        """`receipt`: bytes are its JSON, which is read when it is looked at."""
        self._table = table
        self._receipt = receipt if isinstance(receipt, bytes) else dict(receipt or {})

    @property
    def receipt(self) -> dict[str, Any]:
        """The receipt's JSON (docs/formats/receipt.md): mode, plan, cut, rows per tier, token."""
        if isinstance(self._receipt, bytes):
            self._receipt = parse_receipt(self._receipt)
        return self._receipt

    @property
    def token(self) -> str | None:
        """What the answer saw: pass it as `as_of` to see the same rows again, or as `min_token` to see at least them."""
        return self.receipt.get("token")

    def to_arrow(self) -> pa.Table:
        return self._table

    def to_polars(self) -> polars.DataFrame:
        """Raises ConfigError where polars is not installed."""
        try:
            import polars as pl
        except ImportError:
            raise ConfigError(
                "to_polars() needs polars, which is not installed. Run: pip install proxist[polars]"
            ) from None
        frame = pl.from_arrow(self._table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_pandas(self) -> pandas.DataFrame:
        """Times keep their nanoseconds and their zone. Raises ConfigError where pandas is not installed."""
        try:
            return self._table.to_pandas()
        except ImportError:
            raise ConfigError(
                "to_pandas() needs pandas, which is not installed. Run: pip install proxist[pandas]"
            ) from None

    def to_pylist(self) -> list[dict[str, Any]]:
        return list(self._table.to_pylist())

    def to_pydict(self) -> dict[str, list[Any]]:
        return dict(self._table.to_pydict())

    @property
    def num_rows(self) -> int:
        return int(self._table.num_rows)

    @property
    def num_columns(self) -> int:
        return int(self._table.num_columns)

    @property
    def column_names(self) -> list[str]:
        return list(self._table.column_names)

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    def column(self, name: str | int) -> pa.ChunkedArray:
        return self._table.column(name)

    def equals(self, other: Answer | pa.Table) -> bool:
        """Whether both have the same rows and columns; receipts are not compared."""
        return bool(self._table.equals(other._table if isinstance(other, Answer) else other))

    def __getitem__(self, name: str | int) -> pa.ChunkedArray:
        return self._table.column(name)

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches():
            yield from batch.to_pylist()

    def __arrow_c_schema__(self) -> Any:
        return self._table.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        mode = self.receipt.get("mode", "?")
        return f"<proxist.Answer {self.num_rows} rows × {', '.join(self.column_names)}; mode {mode}>"
