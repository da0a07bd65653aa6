"""binance-raw: lines `<local receive time, ns> <websocket JSON>`, plain or gzip, to trades, quotes and depth.

`…@trade` lines become trades, `…@bookTicker` quotes, `…@depth…` depth; a line without `stream` that has `lastUpdateId` is
a REST snapshot of the book and becomes a depth row with both update ids equal to it. `ts` is the local receive time; the
symbol is `venue:SYMBOL`. Numbers are decimal strings on the wire and become the nearest float64.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from proxist.cli.feeds.feed import FeedBatch
from proxist.cli.feeds.tables import DEPTH, MARKET_TABLES, QUOTES, TRADES
from proxist.errors import InvalidArgument

ROWS_MAX = 4096
SPAN_NS_MAX = 10**9
"""A batch ends at 4,096 rows or one second of the feed, whichever is first: small enough to be played at 1x."""
LEVELS_MAX = 1_000_000
"""Or at this many book levels, 16 bytes each: a snapshot alone may have thousands."""
_GZIP_MAGIC = b"\x1f\x8b"


class BinanceRaw:
    """One capture file. Raises InvalidArgument with file and line where a line is not what the format says."""

    def __init__(self, path: Path, venue: str | None) -> None:
        self._path = path
        self._venue = venue or path.name.partition("__")[0]
        if venue is None and "__" not in path.name:
            raise InvalidArgument(
                f"The name of {path.name!r} does not begin with a venue and `__`, and none was given. Pass --venue, say --venue spot."
            )
        self.tables = MARKET_TABLES

    def batches(self) -> Iterator[FeedBatch]:
        with self._path.open("rb") as raw:
            yield from _Parser(self._path.name, self._venue, raw).batches(_text(raw))


def looks_like_binance_raw(first_line: bytes) -> bool:
    """Whether the first line of a file is a nanosecond time and a JSON object."""
    time, _, rest = first_line.partition(b" ")
    return time.isdigit() and len(time) >= 16 and rest.lstrip().startswith(b"{")


def _text(raw: io.BufferedReader) -> Iterator[bytes]:
    compressed = raw.peek(2).startswith(_GZIP_MAGIC)
    return iter(io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)) if compressed else iter(raw)


class _Columns(Protocol):
    times: list[int]

    def take(self) -> pa.RecordBatch:
        """The rows gathered so far, as a batch; afterwards there are none."""


class _Trades:
    def __init__(self, symbol_of: Callable[[str], str]) -> None:
        self._symbol_of = symbol_of
        self._clear()

    def _clear(self) -> None:
        self.times: list[int] = []
        self._rows: list[tuple[str, int, str, str, bool]] = []

    def add(self, time_ns: int, data: dict[str, Any]) -> None:
        self._rows.append((self._symbol_of(data["s"]), data["t"], data["p"], data["q"], data["m"]))
        self.times.append(time_ns)

    def take(self) -> pa.RecordBatch:
        symbols, ids, prices, sizes, makers = zip(*self._rows, strict=True)
        columns = [
            _strings(symbols),
            _times(self.times),
            _uint64(ids),
            _floats(prices),
            _floats(sizes),
            pa.array(makers),
        ]
        self._clear()
        return pa.record_batch(columns, schema=TRADES.schema)


class _Quotes:
    def __init__(self, symbol_of: Callable[[str], str]) -> None:
        self._symbol_of = symbol_of
        self._clear()

    def _clear(self) -> None:
        self.times: list[int] = []
        self._rows: list[tuple[str, int, str, str, str, str]] = []

    def add(self, time_ns: int, data: dict[str, Any]) -> None:
        self._rows.append((self._symbol_of(data["s"]), data["u"], data["b"], data["B"], data["a"], data["A"]))
        self.times.append(time_ns)

    def take(self) -> pa.RecordBatch:
        symbols, ids, *prices = zip(*self._rows, strict=True)
        columns = [_strings(symbols), _times(self.times), _uint64(ids), *(_floats(values) for values in prices)]
        self._clear()
        return pa.record_batch(columns, schema=QUOTES.schema)


class _Depth:
    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.times: list[int] = []
        self._symbols: list[str] = []
        self._first_ids: list[int] = []
        self._last_ids: list[int] = []
        self._bids = _Levels()
        self._asks = _Levels()

    def add(self, time_ns: int, symbol: str, first_id: int, last_id: int, bids: Any, asks: Any) -> None:
        self._bids.add(bids)
        self._asks.add(asks)
        self._symbols.append(symbol)
        self._first_ids.append(first_id)
        self._last_ids.append(last_id)
        self.times.append(time_ns)

    @property
    def level_count(self) -> int:
        return len(self._bids) + len(self._asks)

    def take(self) -> pa.RecordBatch:
        ids = (_uint64(self._first_ids), _uint64(self._last_ids))
        columns = [_strings(self._symbols), _times(self.times), *ids, *self._bids.arrays(), *self._asks.arrays()]
        self._clear()
        return pa.record_batch(columns, schema=DEPTH.schema)


class _Levels:
    """One side of many books: the levels of all rows in one flat list, price and size alternating."""

    def __init__(self) -> None:
        self._flat: list[str] = []
        self._ends: list[int] = [0]

    def __len__(self) -> int:
        return self._ends[-1]

    def add(self, levels: list[list[str]]) -> None:
        self._flat.extend(chain.from_iterable(levels))
        self._ends.append(self._ends[-1] + len(levels))

    def arrays(self) -> tuple[pa.Array, pa.Array]:
        both = np.array(list(map(float, self._flat)), dtype=np.float64)
        ends = pa.array(self._ends, pa.int32())
        price, size = (pa.array(np.ascontiguousarray(both[side::2])) for side in (0, 1))
        return pa.ListArray.from_arrays(ends, price), pa.ListArray.from_arrays(ends, size)


class _Parser:
    def __init__(self, file_name: str, venue: str, raw: io.BufferedReader) -> None:
        self._file_name = file_name
        self._venue = venue
        self._raw = raw
        self._symbols: dict[str, str] = {}
        self._trades, self._quotes, self._depth = _Trades(self._symbol), _Quotes(self._symbol), _Depth()
        self._gathered: dict[str, _Columns] = {
            TRADES.name: self._trades, QUOTES.name: self._quotes, DEPTH.name: self._depth,
        }  # fmt: skip
        self._early_snapshots: list[tuple[int, dict[str, Any]]] = []

    def batches(self, lines: Iterator[bytes]) -> Iterator[FeedBatch]:
        line_number = 0
        try:
            for line_number, line in enumerate(lines, 1):  # noqa: B007 (named in the errors below)
                table = self._add(line)
                if table is not None and self._is_full(table):
                    yield self._cut(table)
        except (EOFError, OSError, zlib.error) as error:
            raise self._wrong(line_number + 1, f"cannot be read ({error}); the file is damaged or cut short") from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise self._wrong(
                line_number,
                "is not `<time in ns> <JSON of a trade, bookTicker or depth message, or of a depth snapshot>`",
            ) from None
        if self._early_snapshots:
            raise self._wrong(line_number, "is the last, and no stream line names the symbol of the snapshot before it")
        for table, columns in self._gathered.items():
            if columns.times:
                yield self._cut(table)

    def _wrong(self, line_number: int, problem: str) -> InvalidArgument:
        return InvalidArgument(
            f"Line {line_number} of {self._file_name!r} {problem}. Check the file, or name another --format."
        )

    def _is_full(self, table: str) -> bool:
        times = self._gathered[table].times
        full = len(times) >= ROWS_MAX or times[-1] - times[0] >= SPAN_NS_MAX
        return full or (table == DEPTH.name and self._depth.level_count >= LEVELS_MAX)

    def _cut(self, table: str) -> FeedBatch:
        columns = self._gathered[table]
        first_ns = columns.times[0]
        return FeedBatch(table, columns.take(), first_ns, self._raw.tell())

    def _symbol(self, name: str) -> str:
        symbol = self._symbols.get(name)
        if symbol is None:
            symbol = self._symbols[name] = f"{self._venue}:{name}"
        return symbol

    def _add(self, line: bytes) -> str | None:
        """Adds one line's row; returns its table, None for a line without one."""
        time, _, text = line.partition(b" ")
        if not text:
            if line.strip():
                raise ValueError
            return None
        time_ns, message = int(time), json.loads(text)
        stream = message.get("stream")
        if stream is None:
            return self._add_unnamed(time_ns, message)
        kind, data = stream.partition("@")[2], message["data"]
        if self._early_snapshots:
            self._place_early_snapshots(data["s"])
        if kind == "bookTicker":
            self._quotes.add(time_ns, data)
            return QUOTES.name
        if kind == "trade":
            self._trades.add(time_ns, data)
            return TRADES.name
        if kind.startswith("depth"):
            self._depth.add(time_ns, self._symbol(data["s"]), data["U"], data["u"], data["b"], data["a"])
            return DEPTH.name
        raise ValueError

    def _add_unnamed(self, time_ns: int, message: dict[str, Any]) -> str | None:
        if message.keys() == {"result", "id"}:  # the answer to a subscription; it holds no market data
            return None
        message["lastUpdateId"]
        if not self._symbols:
            self._early_snapshots.append((time_ns, message))
            return None
        return self._add_snapshot(time_ns, message, *self._symbols)

    def _add_snapshot(self, time_ns: int, message: dict[str, Any], *names: str) -> str:
        """The file's stream lines say which book it is; with several of them, only the message itself can."""
        name = names[0] if len(names) == 1 else message["symbol"]
        last_id = message["lastUpdateId"]
        self._depth.add(time_ns, self._symbol(name), last_id, last_id, message["bids"], message["asks"])
        return DEPTH.name

    def _place_early_snapshots(self, name: str) -> None:
        for time_ns, message in self._early_snapshots:
            self._add_snapshot(time_ns, message, name)
        self._early_snapshots.clear()


def _strings(values: Any) -> pa.Array:
    return pa.array(values, pa.string())


def _times(values: list[int]) -> pa.Array:
    return pa.array(values, pa.timestamp("ns", tz="UTC"))


def _uint64(values: Any) -> pa.Array:
    return pa.array(values, pa.uint64())


def _floats(values: Any) -> pa.Array:
    return pa.array(list(map(float, values)), pa.float64())
