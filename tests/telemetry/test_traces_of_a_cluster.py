"""One trace per write and one per query, through every door, as a real OTLP receiver gets them."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from pyarrow import flight

import proxist
from proxist.pb import ingest_pb2, ingest_pb2_grpc
from proxist.pb import query_pb2 as pb
from proxist.pb import query_pb2_grpc as pb_grpc
from proxist.rpc.service import parse_ready_line
from proxist.telemetry import setup, tracing
from proxist.telemetry.collector import Collector, Seen
from proxist.telemetry.spans import Api
from proxist.testing.cluster import LocalCluster

pytestmark = pytest.mark.cluster

WAIT_S = 20.0
FLIGHT = "arrow.flight.protocol.FlightService"
SPEC = {
    "name": "ticks",
    "time": "ts",
    "key": "symbol",
    "columns": [
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "symbol", "type": "string"},
        {"name": "price", "type": "float64"},
    ],
}
CANARY = "canary-symbol-7f3a"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Services that sample what their callers sample, and nothing by themselves."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in collector.environment(OTEL_TRACES_SAMPLER="parentbased_always_off").items():
            environment.setenv(name, value)
        environment.setenv("PROXIST_SLOW_QUERY_S", "0")
        with LocalCluster(tmp_path_factory.mktemp("traced"), ingest=2) as cluster:
            with proxist.connect(cluster.endpoints["query"][0]["flight"]) as connection:
                connection.create_table(SPEC)  # its one shard, the cluster's first, is placed on ingest-0
                connection.table("ticks").write(rows(3))
                connection.flush("ticks")
            yield cluster


@pytest.fixture
def program(collector: Collector) -> Iterator[trace.Tracer]:
    """The tracer of a program that uses the SDK; one provider per process is OpenTelemetry's rule, so it is not global."""
    provider = setup.provider("test", "program")
    provider.sampler = ALWAYS_ON  # the services' variables are this process' too
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector.endpoint, insecure=True)))
    tracer = provider.get_tracer("test")
    tracing.decide(Api(tracer))
    yield tracer
    tracing.undecide()
    provider.shutdown()


def rows(count: int) -> pa.Table:
    times = pa.array([1_723_075_200_000_000_000 + i for i in range(count)], pa.timestamp("ns", "UTC"))
    return pa.table({"ts": times, "symbol": [CANARY] * count, "price": [float(i) for i in range(count)]})


def context() -> tuple[str, str, str]:
    """(traceparent, trace id, span id) of a client's own span."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-01", trace_id, span_id


def named(spans: Any, name: str) -> Seen:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, (name, [(span.name, span.service) for span in spans])
    return found[0]


def names(spans: Any) -> set[str]:
    return {span.name for span in spans}


def test_a_write_over_flight_is_one_trace_and_its_persister_batch_is_linked(
    traced: LocalCluster, collector: Collector
) -> None:
    traceparent, trace_id, span_id = context()
    with flight.connect(traced.endpoints["ingest"][0]["flight"]) as client:
        options = flight.FlightCallOptions(headers=[(b"traceparent", traceparent.encode())])
        batch = rows(5).to_batches()[0]
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("ticks"), batch.schema, options)
        writer.write_batch(batch)
        assert json.loads(reader.read().to_pybytes())["rows"] == 5
        writer.close()
    steps = ["ingest.validate", "ingest.dedup", "wal.write", "wal.flush", "hot.apply"]
    wanted = {f"{FLIGHT}/DoPut", "ingest.batch", *steps}
    assert collector.wait(lambda spans: wanted <= names(spans), WAIT_S, trace_id), names(collector.spans(trace_id))
    spans = collector.spans(trace_id)
    stream, of_batch = named(spans, f"{FLIGHT}/DoPut"), named(spans, "ingest.batch")
    assert stream.parent_id == span_id
    assert of_batch.parent_id == stream.span_id
    assert {span.parent_id for span in spans if span.name in steps} == {of_batch.span_id}
    assert [span.name for span in spans if span.name in steps] == steps, "in the order in which they happened"
    assert {stream.kind, of_batch.kind} == {"server"}
    assert stream.service == "ingest-0"
    assert of_batch.attributes["db.collection.name"] == "ticks"
    assert of_batch.attributes["db.operation.batch.size"] == 5
    assert of_batch.attributes["proxist.durability"] == "disk"
    assert stream.attributes["rpc.system.name"] == "grpc"
    assert stream.attributes["rpc.method"] == f"{FLIGHT}/DoPut"

    def linked(spans: Any) -> list[Seen]:
        return [span for span in spans if (trace_id, of_batch.span_id) in span.links]

    assert collector.wait(linked, WAIT_S)
    persisted = linked(collector.spans())[0]
    assert (persisted.name, persisted.kind, persisted.service) == ("persist.batch", "consumer", "persister-0")
    assert persisted.trace_id != trace_id
    assert persisted.parent_id == ""
    method = "proxist.ingest.v1.IngestService/AdvancePersisted"
    assert collector.wait(lambda spans: sum(s.name == method for s in spans) == 2, WAIT_S, persisted.trace_id)
    insert = named(collector.spans(persisted.trace_id), "INSERT ticks")
    assert (insert.parent_id, insert.kind) == (persisted.span_id, "client")
    assert insert.attributes["db.system.name"] == "clickhouse"
    assert insert.attributes["db.operation.batch.size"] == 5
    verify = named(collector.spans(persisted.trace_id), "persist.verify")
    assert verify.parent_id == persisted.span_id
    assert verify.attributes["db.response.returned_rows"] == 5
    told, heard = [span for span in collector.spans(persisted.trace_id) if span.name == method]
    assert (told.kind, told.service, heard.kind, heard.service) == ("client", "persister-0", "server", "ingest-0")
    assert heard.parent_id == told.span_id


@pytest.mark.parametrize("way", ["call", "batch"])
def test_a_write_that_one_owner_passes_on_to_another_is_one_trace(
    traced: LocalCluster, collector: Collector, way: str
) -> None:
    """The context comes with the call or with the batch; the owners' spans hang under one another either way."""
    table = f"pairs_by_{way}"
    with proxist.connect(traced.endpoints["query"][0]["flight"]) as connection:
        connection.create_table({**SPEC, "name": table, "shards": 2})
    traceparent, trace_id, span_id = context()
    headers = [(b"traceparent", traceparent.encode())] if way == "call" else []
    metadata = {"traceparent": traceparent} if way == "batch" else {}
    times = pa.array(range(40), pa.timestamp("ns", "UTC"))
    columns = {"ts": times, "symbol": [f"{CANARY}-{i}" for i in range(40)], "price": [1.0] * 40}
    batch = pa.table(columns).to_batches()[0]
    with flight.connect(traced.endpoints["ingest"][0]["flight"]) as client:
        options = flight.FlightCallOptions(timeout=WAIT_S, headers=headers)
        writer, reader = client.do_put(flight.FlightDescriptor.for_path(table), batch.schema, options)
        writer.write_with_metadata(batch, json.dumps(metadata).encode())
        assert json.loads(reader.read().to_pybytes())["rows"] == 40
        writer.close()

    def of(spans: Any, name: str) -> dict[str, Seen]:
        return {span.service: span for span in spans if span.name == name}

    both = {"ingest-0", "ingest-1"}
    assert collector.wait(
        lambda spans: both <= set(of(spans, "hot.apply")) and both <= set(of(spans, "ingest.batch")), WAIT_S, trace_id
    ), names(collector.spans(trace_id))
    spans = collector.spans(trace_id)
    batches, applied = of(spans, "ingest.batch"), of(spans, "hot.apply")
    near, far = batches["ingest-0"], batches["ingest-1"]
    assert far.parent_id == near.span_id
    if way == "call":
        assert collector.wait(lambda spans: f"{FLIGHT}/DoPut" in names(spans), WAIT_S, trace_id)
        door = named(collector.spans(trace_id), f"{FLIGHT}/DoPut")
        assert (door.service, door.parent_id, near.parent_id) == ("ingest-0", span_id, door.span_id)
    else:
        assert near.parent_id == span_id
    assert {node: applied[node].parent_id for node in both} == {node: batches[node].span_id for node in both}
    assert far.attributes["db.collection.name"] == table
    assert near.attributes["db.operation.batch.size"] == 40
    assert 0 < far.attributes["db.operation.batch.size"] < 40, "the far owner's part alone was passed on"


@pytest.mark.parametrize("hot_path", ["attach", "flight"])
def test_a_query_over_flight_is_one_trace_down_to_the_owner(
    traced: LocalCluster, collector: Collector, hot_path: str
) -> None:
    traceparent, trace_id, span_id = context()
    query = {"last_by": {"table": "ticks", "keys": [CANARY]}, "hot_path": hot_path}
    with flight.connect(traced.endpoints["query"][0]["flight"]) as client:
        options = flight.FlightCallOptions(headers=[(b"traceparent", traceparent.encode())])
        assert client.do_get(flight.Ticket(json.dumps(query).encode()), options).read_all().num_rows == 1
    assert collector.wait(lambda spans: any(s.parent_id == span_id for s in spans), WAIT_S, trace_id)
    assert collector.wait(lambda spans: "hot.read" in names(spans), WAIT_S, trace_id)
    spans = collector.spans(trace_id)
    run, read = named(spans, "query.run"), named(spans, "hot.read")
    doors = [span for span in spans if span.name == f"{FLIGHT}/DoGet"]
    assert doors[0].parent_id == span_id
    assert (doors[0].kind, doors[0].service) == ("server", "query-0")
    assert run.parent_id == doors[0].span_id
    assert run.attributes["proxist.query.plan"] == "operator"
    assert run.attributes["proxist.rows.hot"] == 1
    if hot_path == "attach":
        assert len(spans) == 3, "an attached read is one span in the reader"
        assert (read.parent_id, read.service) == (run.span_id, "query-0")
        assert read.attributes["proxist.hot.path"] == "attach"
    else:
        assert collector.wait(lambda spans: len(spans) == 5, WAIT_S, trace_id)
        asked, answered = [span for span in collector.spans(trace_id) if span.name == f"{FLIGHT}/DoExchange"]
        assert (asked.kind, asked.parent_id) == ("client", run.span_id)
        assert (answered.kind, answered.service, answered.parent_id) == ("server", "ingest-0", asked.span_id)
        assert read.parent_id == answered.span_id


def test_a_query_over_grpc_is_one_trace_down_to_clickhouse(traced: LocalCluster, collector: Collector) -> None:
    traceparent, trace_id, span_id = context()
    with grpc.insecure_channel(traced.endpoints["query"][0]["grpc"]) as channel:
        stub = pb_grpc.QueryServiceStub(channel)
        text = "SELECT count() AS n FROM ticks WHERE ts >= '2024-08-08'"
        answers = list(stub.Query(pb.Query(sql=text), metadata=[("traceparent", traceparent)], timeout=20))
    assert answers
    method = "proxist.query.v1.QueryService/Query"
    assert collector.wait(lambda spans: method in names(spans), WAIT_S, trace_id)
    spans = collector.spans(trace_id)
    served, run = named(spans, method), named(spans, "query.run")
    assert (served.parent_id, served.kind) == (span_id, "server")
    assert served.attributes["rpc.response.status_code"] == "OK"
    assert run.parent_id == served.span_id
    assert run.attributes["proxist.query.plan"] in ("sql-hot", "sql-union")
    engine = "sql.engine" if run.attributes["proxist.query.plan"] == "sql-hot" else "SELECT"
    assert named(spans, engine).parent_id == run.span_id


def test_history_is_a_span_of_clickhouse(traced: LocalCluster, collector: Collector) -> None:
    evicted(traced, "ticks")
    traceparent, trace_id, _ = context()
    query = {"scan": {"table": "ticks"}}
    with flight.connect(traced.endpoints["query"][0]["flight"]) as client:
        options = flight.FlightCallOptions(headers=[(b"traceparent", traceparent.encode())])
        assert client.do_get(flight.Ticket(json.dumps(query).encode()), options).read_all().num_rows >= 3
    assert collector.wait(lambda spans: {"SELECT", "query.run"} <= names(spans), WAIT_S, trace_id)
    select, run = (named(collector.spans(trace_id), name) for name in ("SELECT", "query.run"))
    assert (select.parent_id, select.kind) == (run.span_id, "client")
    assert select.attributes["db.system.name"] == "clickhouse"
    assert run.attributes["proxist.rows.cold"] >= 3


def test_an_http_request_with_context_is_a_span(traced: LocalCluster, collector: Collector) -> None:
    traceparent, trace_id, span_id = context()
    url = traced.endpoints["query"][0]["http"]
    urllib.request.urlopen(urllib.request.Request(f"{url}/health", headers={"traceparent": traceparent})).read()
    assert collector.wait(len, WAIT_S, trace_id)
    (span,) = collector.spans(trace_id)
    assert (span.parent_id, span.kind, span.service) == (span_id, "server", "query-0")
    assert span.attributes["http.request.method"] == "GET"
    assert span.attributes["http.route"] == "/health"
    assert span.attributes["http.response.status_code"] == 200


def test_the_sdk_joins_its_callers_trace(traced: LocalCluster, collector: Collector, program: trace.Tracer) -> None:
    with proxist.connect(traced.endpoints["query"][0]["flight"]) as connection:
        with program.start_as_current_span("strategy") as mine:
            connection.table("ticks").write(rows(2))
            connection.table("ticks").last_by([CANARY])
            with connection.session() as session:
                session.last_by("ticks", [CANARY])
        trace_id = f"{mine.get_span_context().trace_id:032x}"
        root = f"{mine.get_span_context().span_id:016x}"
        assert collector.wait(lambda spans: sum(s.name == "hot.read" for s in spans) == 2, WAIT_S, trace_id)
        assert collector.wait(lambda spans: {"hot.apply", "strategy"} <= names(spans), WAIT_S, trace_id)
        assert collector.wait(lambda spans: "ingest.batch" in names(spans), WAIT_S, trace_id)
    spans = collector.spans(trace_id)
    write = named(spans, "write ticks")
    assert (write.parent_id, write.kind, write.service) == (root, "client", "program")
    assert named(spans, "ingest.batch").parent_id == write.span_id
    asked = [span for span in spans if span.name == "last_by ticks"]
    assert [span.parent_id for span in asked] == [root, root]
    assert all(span.attributes["db.system.name"] == "proxist" for span in asked)
    in_session = named([span for span in spans if span.parent_id == asked[1].span_id], f"{FLIGHT}/DoExchange")
    assert (in_session.kind, in_session.service) == ("server", "query-0")


def test_a_failed_query_is_a_failed_span_without_its_message(traced: LocalCluster, collector: Collector) -> None:
    traceparent, trace_id, _ = context()
    query = {"last_by": {"table": "no_such_table"}}
    with flight.connect(traced.endpoints["query"][0]["flight"]) as client:
        options = flight.FlightCallOptions(headers=[(b"traceparent", traceparent.encode())])
        with pytest.raises(flight.FlightServerError):
            client.do_get(flight.Ticket(json.dumps(query).encode()), options).read_all()
    assert collector.wait(lambda spans: len(spans) == 2, WAIT_S, trace_id)
    assert {span.attributes["error.type"] for span in collector.spans(trace_id)} == {"NOT_FOUND"}
    assert all(span.failed for span in collector.spans(trace_id))
    assert named(collector.spans(trace_id), f"{FLIGHT}/DoGet").attributes["rpc.response.status_code"] == "NOT_FOUND"


@pytest.fixture
def slow_node(traced: LocalCluster, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(Flight address, log) of a further query node, to which every query is slow."""
    stores = ["--etcd", traced.endpoints["etcd"], "--clickhouse", traced.endpoints["clickhouse"]]
    where = ["--data-dir", str(tmp_path / "secret-place"), "--run-dir", str(traced.run_dir)]
    doors = ["--flight-port", "0", "--grpc-port", "0", "--http-port", "0"]
    command = [sys.executable, "-m", "proxist_query", "--name", "query-slow", "--slow-query-s", "0"]
    log = tmp_path / "query.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *stores, *where, *doors], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    ready = parse_ready_line(process.stdout.readline())
    assert ready is not None, log.read_text()
    yield ready["flight"], log
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()


def test_a_failed_grpc_call_is_a_failed_span_with_its_status(traced: LocalCluster, collector: Collector) -> None:
    traceparent, trace_id, _ = context()
    with grpc.insecure_channel(traced.endpoints["ingest"][0]["grpc"]) as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Flush(
                ingest_pb2.FlushRequest(table="no_such_table"), metadata=[("traceparent", traceparent)], timeout=20
            )
    assert collector.wait(len, WAIT_S, trace_id)
    (span,) = collector.spans(trace_id)
    assert span.failed
    assert span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert span.attributes["error.type"] == "NOT_FOUND"


def test_log_lines_carry_the_trace_and_slow_queries_their_plan(slow_node: tuple[str, Path]) -> None:
    traceparent, trace_id, _ = context()
    address, log = slow_node
    query = {"last_by": {"table": "ticks", "keys": [CANARY]}}
    with flight.connect(address) as client:
        options = flight.FlightCallOptions(headers=[(b"traceparent", traceparent.encode())])
        client.do_get(flight.Ticket(json.dumps(query).encode()), options).read_all()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (line,) = [one for one in lines if one["event"] == "slow query"]
    assert line["trace_id"] == trace_id
    assert len(line["span_id"]) == 16
    assert line["operation"] == "last_by"
    assert line["plan"] == "operator"
    assert line["tables"] == ["ticks"]
    assert (line["rows"], line["rows_hot"] + line["rows_cold"], line["outcome"]) == (1, 1, "ok")
    assert CANARY not in log.read_text()
    assert "secret-place" not in log.read_text()


def test_no_span_and_no_log_line_has_a_symbol_or_a_path(traced: LocalCluster, collector: Collector) -> None:
    for span in collector.spans():
        told = json.dumps([span.name, dict(span.attributes)])
        assert CANARY not in told
        assert str(traced.data_dir) not in told
        assert str(traced.run_dir) not in told
    lines = [line for log in (traced.data_dir / "logs").glob("*") for line in log.read_text().splitlines()]
    events = [line for line in lines if line.startswith("{")]
    assert len(events) > 5
    for line in events:
        assert CANARY not in line
        assert str(traced.data_dir) not in line
        assert str(traced.run_dir) not in line


def evicted(cluster: LocalCluster, table: str) -> None:
    """Everything persisted, and RAM empty."""
    with grpc.insecure_channel(cluster.endpoints["ingest"][0]["grpc"]) as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        stub.Flush(ingest_pb2.FlushRequest(table=table, wait=True, timeout_ms=10_000), timeout=20)
        stub.Evict(ingest_pb2.EvictRequest(table=table, all=True), timeout=20)


def test_each_batch_of_a_stream_may_belong_to_another_trace(traced: LocalCluster, collector: Collector) -> None:
    contexts = [context() for _ in range(3)]
    with flight.connect(traced.endpoints["ingest"][0]["flight"]) as client:
        batch = rows(4).to_batches()[0]
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("ticks"), batch.schema)
        for traceparent, _, _ in contexts:
            writer.write_with_metadata(batch, json.dumps({"traceparent": traceparent}).encode())
        assert [json.loads(reader.read().to_pybytes())["rows"] for _ in contexts] == [4, 4, 4]
        writer.close()
    for _, trace_id, span_id in contexts:
        assert collector.wait(lambda spans: {"ingest.batch", "hot.apply"} <= names(spans), WAIT_S, trace_id)
        assert named(collector.spans(trace_id), "ingest.batch").parent_id == span_id
        assert not any(span.name.endswith("DoPut") for span in collector.spans(trace_id)), "the stream is in no trace"
    ids = {trace_id for _, trace_id, _ in contexts}

    def linked() -> set[str]:
        return {link[0] for span in collector.spans() if span.name == "persist.batch" for link in span.links}

    traced.until(lambda: ids <= linked(), "every batch is linked to by the persister's that carried it", WAIT_S)
