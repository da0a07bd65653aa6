"""The doors of a query node in a running cluster: Flight, sessions, gRPC, and what they refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from proxist.errors import NotFound, SchemaMismatch, from_json
from proxist.pb import query_pb2 as pb
from proxist.pb import query_pb2_grpc
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

DEADLINE = fl.FlightCallOptions(timeout=30)
ROWS = 150_000
T0 = 1_723_161_600_000_000_000
SPEC = {
    "name": "doors",
    "time": "ts",
    "key": "symbol",
    "seq": "id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "id", "type": "uint64"},
        {"name": "price", "type": "double"},
    ],
}


def rows(first: int, count: int) -> pa.RecordBatch:
    i = np.arange(first, first + count)
    return pa.record_batch(
        {
            "symbol": pa.array(np.where(i % 2 == 0, "A", "B").tolist()),
            "ts": pa.array(T0 + i, pa.timestamp("ns", "UTC")),
            "id": pa.array(2**60 + i, pa.uint64()),
            "price": pa.array(i / 2),
        }
    )


def put(uri: str, batch: pa.RecordBatch) -> str:
    """Write one batch; the ack's token."""
    with fl.connect(uri) as client:
        writer, reader = client.do_put(fl.FlightDescriptor.for_path("doors"), batch.schema, DEADLINE)
        with writer:
            writer.write_batch(batch)
            ack = reader.read()
            writer.done_writing()
    return str(json.loads(ack.to_pybytes())["token"])


@pytest.fixture(scope="module")
def query(cluster: LocalCluster) -> dict[str, str]:
    return dict(cluster.endpoints["query"][0])


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, query: dict[str, str]) -> Iterator[fl.FlightClient]:
    with fl.connect(query["flight"]) as client:
        list(client.do_action(fl.Action("create_table", json.dumps(SPEC).encode()), DEADLINE))
        put(cluster.endpoints["ingest"][0]["flight"], rows(0, ROWS))
        yield client


def get(client: fl.FlightClient, wire: dict[str, Any]) -> pa.Table:
    return client.do_get(fl.Ticket(json.dumps(wire).encode()), DEADLINE).read_all()


def refusal(call: Any) -> dict[str, Any]:
    with pytest.raises((fl.FlightError, pa.ArrowException)) as raised:
        call()
    return dict(json.loads(raised.value.extra_info))


def test_doget_answers_in_bounded_batches_with_the_receipt(client: fl.FlightClient) -> None:
    reader = client.do_get(fl.Ticket(b'{"scan": {"table": "doors"}}'), DEADLINE)
    sizes = [chunk.data.num_rows for chunk in reader]
    assert sum(sizes) == ROWS
    assert max(sizes) <= 65_536
    receipt = json.loads(reader.schema.metadata[b"proxist.receipt"])
    assert (receipt["mode"], receipt["rows"]) == ("hot", {"hot": ROWS, "cold": 0})
    assert receipt["schema_version"] == {"doors": 1}


@pytest.mark.parametrize("hot_path", ["auto", "attach", "flight"])
def test_every_way_to_the_owner_gives_the_same(client: fl.FlightClient, hot_path: str) -> None:
    last = get(client, {"last_by": {"table": "doors", "columns": ["price"]}, "hot_path": hot_path})
    assert last.to_pylist() == [
        {"symbol": "A", "price": (ROWS - 2) / 2},
        {"symbol": "B", "price": (ROWS - 1) / 2},
    ]
    sql = get(client, {"sql": "SELECT count() AS n, max(id) AS m FROM doors", "hot_path": hot_path})
    assert sql.to_pylist() == [{"n": ROWS, "m": 2**60 + ROWS - 1}]
    left = {"table": "doors", "keys": ["A"], "to": T0 + 5}
    asof = {"asof": {"left": left, "right": {"table": "doors", "columns": ["id"]}, "allow_exact": False}}
    found = get(client, {**asof, "hot_path": hot_path})
    assert found["id_right"].to_pylist() == [None, 2**60, 2**60 + 2]


WINDOW = {
    "table": "doors",
    "keys": ["A"],
    "from": T0 + 4,
    "to": T0 + 8,
    "aggs": [{"fn": "sum", "value": "price", "as": "s"}, {"fn": "count"}],
}


@pytest.mark.parametrize("hot_path", ["auto", "attach", "flight"])
def test_windows_and_bars_on_every_way_to_the_owner(client: fl.FlightClient, hot_path: str) -> None:
    found = get(client, {"window": {**WINDOW, "rows": 2}, "hot_path": hot_path})
    assert found.column_names == ["symbol", "ts", "id", "s", "count"]
    assert found["s"].to_pylist() == [1.0 + 2.0, 2.0 + 3.0]
    assert get(client, {"window": {**WINDOW, "range": 2}, "hot_path": hot_path})["s"].to_pylist() == [2.0, 3.0]
    bars = get(client, {"bars": {**WINDOW, "from": T0, "keys": None, "every": 4}, "hot_path": hot_path})
    assert bars.column_names == ["symbol", "ts", "s", "count"]
    starts = [ns - T0 for ns in bars["ts"].cast(pa.int64()).to_pylist()]
    found = list(zip(starts, *(bars[name].to_pylist() for name in ("symbol", "s", "count")), strict=True))
    assert found == [(0, "A", 0.0 + 1.0, 2), (0, "B", 0.5 + 1.5, 2), (4, "A", 2.0 + 3.0, 2), (4, "B", 2.5 + 3.5, 2)]


def test_an_owner_answers_windows_and_bars_of_its_shards(cluster: LocalCluster, client: fl.FlightClient) -> None:
    with fl.connect(cluster.endpoints["ingest"][0]["flight"]) as owner:
        for query in ({"window": {**WINDOW, "rows": 2}}, {"bars": {**WINDOW, "every": 3}}):
            mine, theirs = get(owner, query), get(client, query)
            assert mine.num_rows > 0
            assert mine.replace_schema_metadata(None).equals(theirs.replace_schema_metadata(None))


def test_a_read_with_an_acks_token_sees_the_row(cluster: LocalCluster, client: fl.FlightClient) -> None:
    # Above every other row of this table, so that the other tests' counts below ROWS stay.
    token = put(cluster.endpoints["ingest"][0]["flight"], rows(10**9, 1).set_column(0, "symbol", pa.array(["Z"])))
    for hot_path in ("attach", "flight"):
        wire = {"scan": {"table": "doors", "keys": ["Z"]}, "freshness": {"min_token": token}, "hot_path": hot_path}
        assert get(client, wire).num_rows == 1
    before = get(client, {"scan": {"table": "doors", "keys": ["Z"]}, "as_of": token})
    assert before.num_rows == 1


def session(client: fl.FlightClient) -> tuple[Any, Any]:
    return client.do_exchange(fl.FlightDescriptor.for_command(b'{"session": true}'), DEADLINE)


def ask(writer: Any, reader: Any, wire: dict[str, Any]) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
    writer.write_metadata(json.dumps(wire).encode())
    return answer(reader)


def answer(reader: Any) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
    batches: list[pa.RecordBatch] = []
    while True:
        chunk = reader.read_chunk()
        if chunk.data is not None:
            batches.append(chunk.data)
        last = json.loads(chunk.app_metadata.to_pybytes()) if chunk.app_metadata else {}
        if last.get("last"):
            return batches, last


def test_a_session_answers_many_queries_and_survives_a_wrong_one(client: fl.FlightClient) -> None:
    writer, reader = session(client)
    with writer:
        for number in range(3):
            scan = {
                "scan": {"table": "doors", "keys": ["A"], "from": T0, "to": T0 + 10, "columns": ["id"]},
                "id": number,
            }
            batches, last = ask(writer, reader, scan)
            assert sum(b.num_rows for b in batches) == 5
            assert last["id"] == number
            assert last["receipt"]["mode"] == "hot"
        _, last = ask(writer, reader, {"scan": {"table": "nosuch"}, "id": "x"})
        assert isinstance(from_json(last["error"]), NotFound)
        _, last = ask(writer, reader, {"last_by": {"table": "doors"}, "id": "y"})
        assert isinstance(from_json(last["error"]), SchemaMismatch)
        batches, _ = ask(writer, reader, {**scan, "id": "z"})
        assert sum(b.num_rows for b in batches) == 5
        writer.done_writing()


def test_a_session_takes_probe_rows(client: fl.FlightClient) -> None:
    times = pa.array([T0 + 7, T0 - 1, T0 + 3], pa.timestamp("ns", "UTC"))
    probes = pa.record_batch({"ts": times, "symbol": pa.array(["A", "A", "B"]), "mine": [1, 2, 3]})
    wire = {"asof": {"left": {"probe": True}, "right": {"table": "doors", "columns": ["id", "ts"]}}, "id": 1}
    writer, reader = session(client)
    with writer:
        writer.begin(probes.schema)
        writer.write_with_metadata(probes, json.dumps(wire).encode())
        batches, last = answer(reader)
        writer.done_writing()
    assert "error" not in last
    table = pa.Table.from_batches(batches)
    assert table.schema.names == ["ts", "symbol", "mine", "id", "ts_right"]
    assert table["id"].to_pylist() == [2**60 + 6, None, 2**60 + 3]


def test_flight_info_has_the_schema_and_the_owner_where_ram_suffices(
    cluster: LocalCluster, client: fl.FlightClient
) -> None:
    command = json.dumps({"last_by": {"table": "doors", "columns": ["price"]}}).encode()
    info = client.get_flight_info(fl.FlightDescriptor.for_command(command), DEADLINE)
    assert info.schema.names == ["symbol", "price"]
    (endpoint,) = info.endpoints
    assert [loc.uri.decode() for loc in endpoint.locations] == [cluster.endpoints["ingest"][0]["flight"]]
    with fl.connect(endpoint.locations[0]) as owner:
        assert owner.do_get(endpoint.ticket, DEADLINE).read_all().schema.names == ["symbol", "price"]
    for query in ({"window": {**WINDOW, "rows": 2}}, {"bars": {**WINDOW, "every": 3, "fill": "prev"}}):
        info = client.get_flight_info(fl.FlightDescriptor.for_command(json.dumps(query).encode()), DEADLINE)
        (endpoint,) = info.endpoints
        assert endpoint.locations
        assert get(client, query).schema.remove_metadata().equals(info.schema)
    sql = json.dumps({"sql": "SELECT symbol, count() AS n FROM doors GROUP BY symbol"}).encode()
    info = client.get_flight_info(fl.FlightDescriptor.for_command(sql), DEADLINE)
    assert info.schema.equals(pa.schema([("symbol", pa.string()), ("n", pa.uint64())]))
    assert not info.endpoints[0].locations
    info = client.get_flight_info(fl.FlightDescriptor.for_path("doors"), DEADLINE)
    assert client.do_get(info.endpoints[0].ticket, DEADLINE).read_all().num_rows >= ROWS
    flights = list(client.list_flights(b"", DEADLINE))
    assert b"doors" in [flight.descriptor.path[0] for flight in flights]


def test_what_the_door_refuses_is_typed(cluster: LocalCluster, client: fl.FlightClient) -> None:
    def write() -> None:
        writer, _ = client.do_put(fl.FlightDescriptor.for_path("doors"), rows(0, 1).schema, DEADLINE)
        with writer:
            writer.write_batch(rows(0, 1))
            writer.done_writing()

    error = refusal(write)
    assert cluster.endpoints["ingest"][0]["flight"] in error["message"]
    assert refusal(lambda: get(client, {"scan": {}}))["code"] == "INVALID_ARGUMENT"
    assert refusal(lambda: client.do_get(fl.Ticket(b"\xff"), DEADLINE).read_all())["code"] == "INVALID_ARGUMENT"
    probe = {"asof": {"left": {"probe": True}, "right": {"table": "doors"}}}
    assert refusal(lambda: get(client, probe))["code"] == "INVALID_ARGUMENT"
    assert refusal(lambda: list(client.do_action(fl.Action("nosuch", b"{}"), DEADLINE)))["code"] == "INVALID_ARGUMENT"


def test_cancel_ends_a_running_query_by_its_id(client: fl.FlightClient, query: dict[str, str]) -> None:
    def cancel() -> bool:
        (result,) = client.do_action(fl.Action("cancel", b'{"id": "slow"}'), DEADLINE)
        return bool(json.loads(result.body.to_pybytes())["cancelled"])

    assert not cancel()
    # A token from the future keeps the query waiting for its shard; the cancel is seen when the wait is over.
    token = json.loads(get(client, {"last_by": {"table": "doors"}}).schema.metadata[b"proxist.receipt"])["token"]
    from proxist.model.ids import Offset
    from proxist.model.token import Mark, Token, parse_token

    ahead = Token({s: Mark(m.epoch, Offset(m.end + 10**6)) for s, m in parse_token(token).marks.items()})
    sql = "SELECT 1 FROM doors AS a, doors AS b"
    freshness = {"min_token": str(ahead), "wait_ms": 2_000, "on_stale": "hot"}
    errors: list[dict[str, Any]] = []
    slow = threading.Thread(
        target=lambda: errors.append(
            refusal(lambda: get(fl.connect(query["flight"]), {"sql": sql, "id": "slow", "freshness": freshness}))
        )
    )
    slow.start()
    deadline = threading.Event()
    while not cancel():
        assert slow.is_alive()
        deadline.wait(0.01)
    slow.join(20)
    assert "cancelled" in errors[0]["message"]


def test_grpc_answers_with_json_rows_and_a_receipt(query: dict[str, str], client: fl.FlightClient) -> None:
    with grpc.insecure_channel(query["grpc"]) as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)
        wire = {"scan": {"table": "doors", "keys": ["A"], "from": "2024-08-09T00:00:00Z", "limit": "2"}}
        answers = list(stub.Query(ParseDict(wire, pb.Query()), timeout=30))
        found = [MessageToDict(row) for answer in answers for row in answer.rows]
        assert found == [
            {"symbol": "A", "ts": "2024-08-09T00:00:00Z", "id": str(2**60), "price": 0.0},
            {"symbol": "A", "ts": "2024-08-09T00:00:00.000000002Z", "id": str(2**60 + 2), "price": 1.0},
        ]
        assert MessageToDict(answers[-1].receipt)["mode"] == "hot"
        times = {"from": "2024-08-09T00:00:00.000000004Z", "to": "2024-08-09T00:00:00.000000008Z"}
        window = {**WINDOW, **times, "range": "0.000000003s"}
        answers = list(stub.Query(ParseDict({"window": window}, pb.Query()), timeout=30))
        assert [MessageToDict(row)["s"] for answer in answers for row in answer.rows] == [1.0 + 2.0, 2.0 + 3.0]
        bars = {**WINDOW, **times, "every": "1s", "fill": "prev"}
        answers = list(stub.Query(ParseDict({"bars": bars}, pb.Query()), timeout=30))
        found = [MessageToDict(row) for answer in answers for row in answer.rows]
        assert found == [{"symbol": "A", "ts": "2024-08-09T00:00:00Z", "s": 2.0 + 3.0, "count": 2.0}]
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Query(ParseDict({"bars": {"table": "doors", "every": "1s"}}, pb.Query()), timeout=30))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Query(pb.Query(sql="SELECT * FROM nosuch"), timeout=30))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        status = stub.Status(pb.StatusRequest(), timeout=30)
        assert (status.state, [(o.node, o.via) for o in status.owners]) == ("ready", [("ingest-0", "attach")])


def counted(query: dict[str, str]) -> dict[str, float]:
    """Samples of /metrics that a last_by adds to."""
    with urlopen(query["http"] + "/metrics", timeout=10) as page:
        lines = [
            line.rpartition(" ") for line in page.read().decode().splitlines() if line.startswith("proxist_query_")
        ]
    wanted = ('queries_total{outcome="ok",verb="lastby"}', "seconds_count{", 'rows_total{tier="hot"}', "answers_total{")
    return {name: float(value) for name, _, value in lines if any(part in name for part in wanted)}


@pytest.mark.parametrize("hot_path", ["auto", "attach", "flight"])
def test_a_query_is_counted_whichever_way_it_is_answered(
    query: dict[str, str], client: fl.FlightClient, hot_path: str
) -> None:
    """The last rows of a few keys go without the executor; with an `id` beside them they do not."""
    plain = {"last_by": {"table": "doors", "keys": ["A", "B"], "columns": ["price"]}, "hot_path": hot_path}
    rises = []
    for asked in (plain, {**plain, "id": "cancel me"}):
        get(client, asked)
        before = counted(query)
        for _ in range(3):
            get(client, asked)
        after = counted(query)
        rises.append({name: after[name] - before.get(name, 0.0) for name in after if after[name] != before.get(name)})
    assert rises[0] == rises[1]
    assert sorted(rises[0].values()) == [3.0, 3.0, 3.0, 6.0]


@pytest.mark.parametrize("hot_path", ["auto", "attach", "flight"])
def test_sessions_gets_and_the_owner_give_the_same_last_rows(
    cluster: LocalCluster, query: dict[str, str], client: fl.FlightClient, hot_path: str
) -> None:
    """By the short way, by the executor (an `id` beside the query), and at the owner's own door."""
    asked = {"last_by": {"table": "doors", "keys": ["B", "none", "A"]}, "hot_path": hot_path}
    slow = get(client, {**asked, "id": "by the executor"})
    assert slow.num_rows == 2
    with fl.connect(cluster.endpoints["ingest"][0]["flight"]) as owner:
        for found in (get(client, asked), get(client, asked), get(owner, asked)):
            assert found.equals(slow)
            assert found.schema.metadata == slow.schema.metadata
    for door in (query["flight"], cluster.endpoints["ingest"][0]["flight"]):
        with fl.connect(door) as peer:
            writer, reader = peer.do_exchange(fl.FlightDescriptor.for_command(b'{"session": true}'), DEADLINE)
            for number in range(3):
                writer.write_metadata(json.dumps({**asked, "id": number}).encode())
                chunk = reader.read_chunk()
                told = json.loads(chunk.app_metadata.to_pybytes())
                assert (told["id"], told["last"]) == (number, True)
                assert told["receipt"] == json.loads(slow.schema.metadata[b"proxist.receipt"])
                assert pa.Table.from_batches([chunk.data]).equals(slow)
            writer.done_writing()
            writer.close()


def test_metrics_count_queries_and_clickhouse_statements(query: dict[str, str], client: fl.FlightClient) -> None:
    get(client, {"last_by": {"table": "doors"}})
    with urlopen(query["http"] + "/metrics", timeout=10) as page:
        text = page.read().decode()
    assert 'proxist_query_queries_total{outcome="ok",verb="lastby"}' in text
    assert "proxist_clickhouse_statements_total" in text
    with urlopen(query["http"] + "/health", timeout=10) as page:
        assert json.loads(page.read())["role"] == "query"
