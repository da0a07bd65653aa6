"""csv, parquet and arrow files, and how a format is recognised or refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from client_fakes import SPEC, rows

from proxist.cli.feeds import columnar
from proxist.cli.feeds.formats import guess_format, open_feed, producer_name
from proxist.errors import InvalidArgument, SchemaMismatch
from proxist.model.table import TableSpec, parse_spec

TABLE = parse_spec(SPEC)


def describe(name: str) -> TableSpec:
    assert name == "trades"
    return TABLE


def read(path: Path, format_name: str | None = None) -> pa.Table:
    feed = open_feed(path, format_name, None, "trades", describe)
    return pa.Table.from_batches([batch.rows for batch in feed.batches()], TABLE.schema)


def save(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=1_000)
    elif path.suffix == ".csv":
        pacsv.write_csv(table, path)
    elif path.name.endswith(".csv.gz"):
        with gzip.open(path, "wb") as file:
            pacsv.write_csv(table, file)
    else:
        new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.arrow", "a.arrows"])
def test_every_format_gives_the_same_rows_in_the_same_batches(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "ROWS_MAX", 512)
    table = rows(2_000)
    feed = open_feed(save(table, tmp_path / name), None, None, "trades", describe)
    batches = [batch.rows for batch in feed.batches()]
    assert [batch.num_rows for batch in batches] == [512, 512, 512, 464]
    assert pa.Table.from_batches(batches).equals(table.cast(TABLE.schema))


def test_wide_rows_make_smaller_batches_the_same_way_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "ROWS_MAX", 512)
    monkeypatch.setattr(columnar, "BYTES_MAX", 100 * (2 + 4 + 3 * 8))
    sizes = []
    for name in ("a.csv", "a.parquet", "a.arrow"):
        feed = open_feed(save(rows(1_000), tmp_path / name), None, None, "trades", describe)
        sizes.append([batch.rows.num_rows for batch in feed.batches()])
    assert sizes[0] == sizes[1] == sizes[2] == [100] * 5 + [12] + [100] * 4 + [88]


def test_csv_times_are_nanoseconds_or_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("price,trade_id,symbol,ts\n1.5,1,A,1723161600123456789\n2,2,B,1723161600123456790\n")
    assert [t.value for t in read(path)["ts"]] == [1_723_161_600_123_456_789, 1_723_161_600_123_456_790]
    path.write_text("symbol,ts,trade_id,price\nA,2024-08-09T00:00:00.123456789Z,1,1.5\n")
    assert read(path)["ts"][0].value == 1_723_161_600_123_456_789


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("symbol,ts,trade_id\nA,1,1\n", "'price'.*missing"),
        ("symbol,ts,trade_id,price,x\nA,1,1,1,1\n", "'x'.*not in table"),
        ("symbol,ts,trade_id,price\nA,1,one,1\n", r"'a\.csv' cannot be read as csv"),
        ("symbol,ts,trade_id,price\nA,soon,1,1\n", r"'a\.csv' cannot be read as csv"),
        ("", r"'a\.csv' cannot be read as csv"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises((InvalidArgument, SchemaMismatch), match=message):
        read(tmp_path / "a.csv")


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    path = save(rows(10), tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidArgument, match=r"'a\.parquet' cannot be read as parquet"):
        read(path)


def test_an_unknown_format_and_a_missing_file_are_refused_by_name(tmp_path: Path) -> None:
    path = save(rows(1), tmp_path / "a.parquet")
    refused: list[tuple[tuple[Any, ...], str]] = [
        ((path, "orc", None, "trades"), "'orc' is not known.*binance-raw, csv, parquet, arrow"),
        ((path, None, None, None), r"a\.parquet.*--table"),
        ((tmp_path / "none.csv", None, None, "trades"), r"none\.csv.*not there"),
        ((path, "binance-raw", "spot", "trades"), "--table.*binance-raw"),
    ]
    for arguments, message in refused:
        with pytest.raises(InvalidArgument, match=message):
            open_feed(*arguments, describe)


def test_the_format_is_guessed_from_suffix_or_first_line(tmp_path: Path) -> None:
    capture = tmp_path / "capture.gz"
    capture.write_bytes(gzip.compress(b'1723161254087891268 {"stream":"x"}\n'))
    assert guess_format(capture) == "binance-raw"
    assert guess_format(tmp_path / "x.csv.gz") == "csv"
    for content in (b"hello\n", b"", b"\x1f\x8bbroken"):
        capture.write_bytes(content)
        with pytest.raises(InvalidArgument, match=r"'capture\.gz'.*--format"):
            guess_format(capture)


def test_a_producers_name_is_the_files_name_and_content(tmp_path: Path) -> None:
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "f.gz").write_bytes(b"same")
    (tmp_path / "g.gz").write_bytes(b"other")
    first, second, other = (producer_name(tmp_path / p) for p in ("a/f.gz", "b/f.gz", "g.gz"))
    assert first == second != other
    assert first.startswith("f.gz:")
