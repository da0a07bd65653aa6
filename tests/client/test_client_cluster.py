"""The SDK against a whole cluster: what is written is read, through every door, and survives a kill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from client_fakes import SPEC, rows

import proxist
from proxist.errors import AlreadyExists, InvalidArgument, NotFound, ProducerConflict, SchemaMismatch
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


MEAN = {"fn": "avg", "value": "price"}


@pytest.fixture(params=["query", "ingest"])
def connection(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[proxist.Connection]:
    with proxist.connect(cluster.endpoints[request.param][0]["flight"]) as connected:
        yield connected


@pytest.fixture
def table(request: pytest.FixtureRequest, connection: proxist.Connection) -> Iterator[proxist.Table]:
    """Three shards, for this test alone."""
    name = f"sdk_{abs(hash(request.node.name)) % 10**9}"
    made = connection.create_table({**SPEC, "name": name, "shards": 3})
    yield made
    made.drop()


def test_what_is_written_is_read_by_every_verb(table: proxist.Table, connection: proxist.Connection) -> None:
    written = rows(1_000, symbols=20)
    ack = table.write(pl.DataFrame(written))
    assert ack.rows == 1_000
    scan = table.scan(min_token=ack.token)
    assert scan.to_arrow().equals(written.cast(scan.schema))
    last = table.last_by(["S3", "S7"], ["price"])
    assert last.to_pydict() == {"symbol": ["S3", "S7"], "price": [983 / 4, 987 / 4]}
    assert table.first_by("S3", "trade_id", at=500)["trade_id"].to_pylist() == [503]
    assert table.last_by("S3", "trade_id", at=502)["trade_id"].to_pylist() == [483]
    assert table.scan("S3", start=100, stop=124)["trade_id"].to_pylist() == [103, 123]
    sums = table.window("S3", {"fn": "sum", "value": "price", "as": "s"}, rows=2, start=500)
    assert sums["s"].to_pylist()[:2] == [(483 + 503) / 4, (503 + 523) / 4]
    assert sums.equals(table.window("S3", {"fn": "sum", "value": "price", "as": "s"}, range=21, start=500))
    closes = table.bars("S3", [{"fn": "close", "value": "price"}, {"fn": "count"}], every=100, start=100, stop=300)
    assert closes.to_pydict() | {"ts": None} == {
        "symbol": ["S3", "S3"],
        "ts": None,
        "close_price": [183 / 4, 283 / 4],
        "count": [5, 5],
    }
    counted = connection.sql(f"SELECT count() AS n, sum(price) AS p FROM {table.name}")
    assert counted.to_pylist() == [{"n": 1_000, "p": sum(range(1_000)) / 4}]
    assert scan.receipt["mode"] == "hot"


def test_probes_and_tables_join_as_of(table: proxist.Table) -> None:
    table.write(rows(100))
    probes = pa.table({"symbol": ["S1", "S2", "none"], "ts": pa.array([50, 1, 5], pa.timestamp("ns", "UTC"))})
    joined = table.asof(probes, ["trade_id"])
    assert joined["trade_id"].to_pylist() == [46, None, None]
    assert table.asof(probes, ["trade_id"], direction="forward")["trade_id"].to_pylist() == [51, 2, None]
    both = table.asof(table, ["price"], allow_exact=False)
    assert (both.num_rows, both["price_right"].null_count) == (100, 5)


def test_a_session_and_the_connection_answer_alike(table: proxist.Table, connection: proxist.Connection) -> None:
    table.write(rows(300))
    with connection.session() as session:
        for _ in range(3):
            assert session.last_by(table.name).equals(table.last_by())
            assert session.scan(table.name, "S1").equals(table.scan("S1"))
            assert session.window(table.name, None, MEAN, range="5ns").equals(table.window(None, MEAN, range="5ns"))
            for fill in ("none", "prev"):
                mine = session.bars(table.name, None, MEAN, every=3, fill=fill)
                assert mine.equals(table.bars(None, MEAN, every=3, fill=fill))
            with pytest.raises(NotFound, match="nosuch"):
                session.last_by("nosuch")
        assert session.sql(f"SELECT count() AS n FROM {table.name}")["n"].to_pylist() == [300]


def test_as_of_a_token_repeats_an_answer(table: proxist.Table) -> None:
    table.write(rows(50))
    before = table.scan()
    table.write(rows(50, first=50))
    table.flush()
    assert table.scan().num_rows == 100
    assert table.scan(as_of=before.token).equals(before)


def test_refusals_are_typed(table: proxist.Table, connection: proxist.Connection) -> None:
    with pytest.raises(AlreadyExists, match=table.name):
        connection.create_table({**SPEC, "name": table.name, "shards": 2})
    with pytest.raises(SchemaMismatch, match="price"):
        table.write(rows(1).drop_columns(["price"]))
    with pytest.raises(InvalidArgument):
        connection.sql("SELEC 1")
    with pytest.raises(InvalidArgument, match="no column 'cost'"):
        table.window(None, {"fn": "avg", "value": "cost"}, rows=2)
    with pytest.raises(InvalidArgument, match="neither `range` nor `rows`"):
        table.window(None, MEAN)
    with table.writer(producer="p") as writer:
        writer.write(rows(6))
    with pytest.raises(ProducerConflict), table.writer(producer="p", first_seq=1) as again:
        again.write(rows(6, first=100))


def test_writers_survive_a_kill_of_the_owner(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        LocalCluster(tmp_path_factory.mktemp("kill"), ingest=2) as own,
        proxist.connect(own.endpoints["query"][0]["flight"]) as connection,
    ):
        table = connection.create_table({**SPEC, "name": "killed", "shards": 4})
        acked: dict[str, int] = {}
        third, done = threading.Event(), 300

        def write(producer: str, first: int) -> None:
            with table.writer(producer=producer, window=16) as writer:
                for number in range(done):
                    writer.send(rows(20, first + number * 20))
                    if number == done // 3:
                        third.set()
                acked[producer] = writer.flush().rows

        writers = [threading.Thread(target=write, args=(f"w{n}", n * 10**6)) for n in range(2)]
        for one in writers:
            one.start()
        assert third.wait(60)
        own.kill("ingest-0")
        own.wait_ready("ingest-0")
        own.kill("ingest-1")
        for one in writers:
            one.join()
        assert acked == {"w0": done * 20, "w1": done * 20}
        ids: Any = table.scan(columns=["trade_id"])["trade_id"].to_pylist()
        assert sorted(ids) == [first + i for first in (0, 10**6) for i in range(done * 20)]
