"""Formats by name: which one a file is, and how it is opened."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import xxhash

from proxist.cli.feeds.binance import BinanceRaw, looks_like_binance_raw
from proxist.cli.feeds.columnar import Columnar
from proxist.cli.feeds.feed import Feed
from proxist.errors import InvalidArgument
from proxist.model.table import TableSpec

FORMATS = ("binance-raw", "csv", "parquet", "arrow")
_BY_SUFFIX = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}


def open_feed(
    path: Path, format_name: str | None, venue: str | None, table: str | None, describe: Callable[[str], TableSpec]
) -> Feed:
    """Open a file of one of FORMATS; without a name the format is the one that the suffix or the first line shows.

    `describe` gives the spec of an existing table, for formats whose rows go where `table` says. Raises InvalidArgument
    that names the unknown format, the missing file, or the missing --table.
    """
    if not path.is_file():
        raise InvalidArgument(f"File {str(path)!r} is not there, or is not a file. Check the path.")
    name = format_name or guess_format(path)
    if name not in FORMATS:
        raise InvalidArgument(f"Format {name!r} is not known. Use one of {', '.join(FORMATS)}.")
    if name == "binance-raw":
        if table is not None:
            raise InvalidArgument(
                f"--table is {table!r}, but binance-raw fills trades, quotes and depth itself. Leave --table out."
            )
        return BinanceRaw(path, venue)
    if table is None:
        raise InvalidArgument(f"{path.name!r} is {name}, which does not say where its rows go. Pass --table.")
    return Columnar(path, name, describe(table))


def guess_format(path: Path) -> str:
    """Raises InvalidArgument where neither suffix nor first line shows one of FORMATS."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    if looks_like_binance_raw(_first_bytes(path)):
        return "binance-raw"
    raise InvalidArgument(
        f"{path.name!r} is of no format that its suffix or first line shows. Pass --format: {', '.join(FORMATS)}."
    )


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as raw:
        start = raw.read(2)
    try:
        opener = gzip.open if start == b"\x1f\x8b" else open
        with opener(path, "rb") as text:
            return bytes(text.read(64))
    except (OSError, EOFError, zlib.error):
        return b""


def producer_name(path: Path) -> str:
    """`<file name>:<hash of its bytes>`: the same file is the same producer wherever it lies, another content is not."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as raw:
        while block := raw.read(1 << 20):
            digest.update(block)
    return f"{path.name}:{digest.hexdigest()}"
