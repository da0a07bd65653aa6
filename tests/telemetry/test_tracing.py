"""Spans without a cluster: what is off, what is on, what is never told."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from proxist.errors import ConfigError, NotFound
from proxist.rpc.status import outward
from proxist.rpc.tracing import address_of, carrier_of, flight_headers, grpc_metadata
from proxist.telemetry import logs, scrub, setup, tracing
from proxist.telemetry.collector import Seen, tree
from proxist.telemetry.spans import Api, parse_traceparent

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = SAMPLED[:-1] + "0"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Tracing on, as a service has it, with every span kept."""
    found = InMemorySpanExporter()
    provider = setup.provider("test", "test-0")
    provider.add_span_processor(SimpleSpanProcessor(found))
    tracing.decide(Api(provider.get_tracer("test")))
    yield found
    tracing.undecide()
    provider.shutdown()


@pytest.fixture
def off() -> Iterator[None]:
    tracing.decide(None)
    yield
    tracing.undecide()


@pytest.mark.usefixtures("off")
def test_off_makes_no_span_and_no_header() -> None:
    made = [
        tracing.span("a"),
        tracing.outgoing("b"),
        tracing.call("c"),
        tracing.serve("d", {"traceparent": SAMPLED}),
        tracing.linked("e", [SAMPLED]),
    ]
    assert all(one is tracing.OFF for one in made)
    with made[0] as span:
        span.set("x", 1)
        assert span.current() is tracing.OFF
    assert tracing.headers() == {}
    assert flight_headers() == []
    assert grpc_metadata(None) is None
    assert tracing.traceparent() is None


def test_a_step_outside_any_trace_is_no_span(exporter: InMemorySpanExporter) -> None:
    with tracing.span("wal.write"):
        pass
    assert exporter.get_finished_spans() == ()


def test_a_step_of_a_trace_that_is_not_sampled_is_no_span_and_its_context_goes_on(
    exporter: InMemorySpanExporter,
) -> None:
    with tracing.serve("door", {"traceparent": NOT_SAMPLED}) as door:
        assert not door.recording
        assert tracing.span("step") is tracing.OFF
        assert tracing.headers()["traceparent"].startswith(NOT_SAMPLED[:35])
        assert tracing.headers()["traceparent"].endswith("-00")
    assert exporter.get_finished_spans() == ()


def test_a_door_continues_its_callers_trace(exporter: InMemorySpanExporter) -> None:
    with tracing.serve("door", {"traceparent": SAMPLED}), tracing.span("step"):
        pass
    step, door = exporter.get_finished_spans()
    assert f"{door.context.trace_id:032x}" == SAMPLED.split("-")[1]
    assert door.parent is not None
    assert f"{door.parent.span_id:016x}" == SAMPLED.split("-")[2]
    assert step.parent == door.context


def test_a_door_that_trusts_no_caller_begins_a_trace(exporter: InMemorySpanExporter) -> None:
    provider = setup.provider("test", "test-0")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.decide(Api(provider.get_tracer("test"), trust_callers=False))
    with tracing.serve("door", {"traceparent": SAMPLED}):
        pass
    (door,) = exporter.get_finished_spans()
    assert door.parent is None
    assert f"{door.context.trace_id:032x}" != SAMPLED.split("-")[1]
    provider.shutdown()


def test_a_linked_span_is_sampled_as_its_links_are() -> None:
    exporter = InMemorySpanExporter()
    provider = setup.provider("test", "test-0")
    provider.sampler = setup._with_links(ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    api = Api(provider.get_tracer("test"))
    api.linked("persist.batch", [NOT_SAMPLED], None).end()
    api.linked("persist.batch", ["garbage", SAMPLED], None).end()
    assert api.linked("persist.batch", ["garbage"], None) is tracing.OFF
    (span,) = exporter.get_finished_spans()
    assert [f"{link.context.span_id:016x}" for link in span.links] == [SAMPLED.split("-")[2]]
    provider.shutdown()


def test_an_error_is_told_by_its_code_never_by_its_message(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(NotFound), tracing.serve("door", None):
        raise NotFound("Table 'secret' is not here: /var/lib/proxist.")
    with pytest.raises(KeyError), tracing.serve("door", None):
        raise KeyError("secret")
    spans = exporter.get_finished_spans()
    assert [span.attributes and span.attributes["error.type"] for span in spans] == ["NOT_FOUND", "KeyError"]
    assert all(not span.events and not span.status.description for span in spans)


def test_stages_become_steps_of_each_span(exporter: InMemorySpanExporter) -> None:
    clock = iter([100, 110, 130])
    spans = [tracing.serve("ingest.batch", None), tracing.serve("ingest.batch", None)]
    stages = tracing.Stages(spans, lambda: next(clock))
    stages.reached("wal.write")
    stages.reached("wal.flush")
    stages.tell()
    told = [(span.name, span.start_time, span.end_time) for span in exporter.get_finished_spans()]
    assert told == [("wal.write", 100, 110), ("wal.flush", 110, 130)] * 2


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, None),
    ],
)
def test_the_standard_variables_switch_tracing_on(environment: dict[str, str], wanted: str | None) -> None:
    assert setup.exporter_wanted(environment) == wanted


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "must be otlp, console or none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "over grpc only"),
    ],
)
def test_what_cannot_be_exported_to_is_a_config_error(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        setup.exporter_wanted(environment)


def test_the_resource_names_the_service_and_the_operator_may_name_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = setup.provider("ingest", "ingest-3").resource.attributes
    assert attributes["service.name"] == "proxist-ingest"
    assert attributes["service.instance.id"] == "ingest-3"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ticks")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    attributes = setup.provider("ingest", "ingest-3").resource.attributes
    assert attributes["service.name"] == "ticks"
    assert attributes["deployment.environment.name"] == "prod"


@pytest.mark.parametrize("text", ["", "garbage", SAMPLED[:-3], "ff" + SAMPLED[2:], f"00-{'0' * 32}-{'0' * 16}-01"])
def test_what_is_no_traceparent_names_nothing(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_message_of_a_stream_gives_up_its_context() -> None:
    message: dict[str, Any] = {"id": 1, "traceparent": SAMPLED}
    assert carrier_of(message) == {"traceparent": SAMPLED}
    assert message == {"id": 1}
    assert carrier_of(message) is None


def test_a_unix_sockets_path_is_no_address() -> None:
    assert address_of("grpc+unix:///run/proxist/query-0.flight") == ("localhost", None)
    assert address_of("grpc://10.0.0.1:8815") == ("10.0.0.1", 8815)
    assert address_of("10.0.0.1:7421") == ("10.0.0.1", 7421)


PROGRAM = """
import sys
from proxist.telemetry import tracing
from proxist.client.tracing import query_span
assert not tracing.on()
import opentelemetry.trace
assert query_span({"sql": "SELECT 1"}, "grpc://a:1") is tracing.OFF   # the API alone is no tracing
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
opentelemetry.trace.set_tracer_provider(provider)
with query_span({"last_by": {"table": "trades", "keys": ["SECRET"]}}, "grpc://a:1"):
    assert tracing.headers()["traceparent"]
assert "opentelemetry.sdk" in sys.modules
"""


def test_the_sdk_takes_part_once_its_program_has_a_provider() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    span = json.loads(done.stdout)
    assert span["name"] == "last_by trades"
    assert span["kind"] == "SpanKind.CLIENT"
    assert "SECRET" not in done.stdout


def test_the_sdk_loads_no_opentelemetry_by_itself() -> None:
    code = "import sys, proxist.client; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The lines of a service that was set up in this process."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    saved, handlers = structlog.get_config(), logging.root.handlers[:]
    level = logging.root.level
    logs.configure("info", hide={"data_dir": tmp_path, "run_dir": tmp_path / "run"}, role="query", name="query-0")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.configure(**saved)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    scrub.hide({})


def test_a_line_inside_a_span_has_its_ids(lines: Any, exporter: InMemorySpanExporter) -> None:
    log = structlog.get_logger()
    log.info("outside")
    with tracing.serve("door", {"traceparent": SAMPLED}):
        log.info("inside")
    outside, inside = lines()
    (span,) = exporter.get_finished_spans()
    assert "trace_id" not in outside
    assert inside["trace_id"] == SAMPLED.split("-")[1]
    assert inside["span_id"] == f"{span.context.span_id:016x}"


def test_secrets_and_paths_are_taken_out_of_every_line(lines: Any, tmp_path: Path) -> None:
    log = structlog.get_logger()
    log.info("one", clickhouse="http://user:hunter2@host:8123", token="px_ab12_0123456789abcdef", at=tmp_path / "wal")
    log.info("two", error=f"Authorization: Bearer-hunter2 {tmp_path}/run/x.sock", details={"path": [str(tmp_path)]})
    logging.getLogger("urllib3").warning("password=hunter2 at %s", tmp_path)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("three")
    told = json.dumps(lines())
    assert "hunter2" not in told
    assert "0123456789abcdef" not in told
    assert str(tmp_path) not in told
    assert "<data_dir>/wal" in told
    assert "<run_dir>/x.sock" in told
    assert [line["role"] for line in lines()] == ["query"] * 4
    assert "Traceback" in lines()[3]["exception"]


def test_a_traceback_in_the_log_has_no_value_that_an_exceptions_message_quotes(lines: Any) -> None:
    try:
        {}["CNRYSYM"]
    except KeyError as cause:
        try:
            raise ValueError('Could not convert "CNRYSYM" of pxi_query-0_6b01_0123456789abcdef') from cause
        except ValueError:
            structlog.get_logger().exception("failed")
    (line,) = lines()
    assert "ValueError: Could not convert '…' of pxi_query-0_***" in line["exception"]
    assert "CNRYSYM" not in line["exception"].replace('{}["CNRYSYM"]', "").replace('"CNRYSYM" of', "")


def test_what_leaves_for_a_client_has_no_place_of_this_machine_and_no_credential(lines: Any, tmp_path: Path) -> None:
    error = NotFound(
        f"Log {tmp_path}/wal/1 is closed; ClickHouse at http://user:hunter2@host:8123. Its token: ask an administrator.",
        path=[str(tmp_path / "run" / "x.sock")],
    )
    assert outward(error) == {
        "code": "NOT_FOUND",
        "message": "Log <data_dir>/wal/1 is closed; ClickHouse at http://user:***@host:8123. "
        "Its token: ask an administrator.",
        "details": {"path": ["<run_dir>/x.sock"]},
    }


def test_a_tree_shows_children_and_linked_batches_under_their_parents() -> None:
    def span(name: str, at: int, own: str, parent: str = "", links: tuple[tuple[str, str], ...] = ()) -> Seen:
        return Seen(name, "svc", "t", own, parent, "internal", at, at + 1_000_000, {}, links, False)

    drawn = tree([span("write", 0, "1"), span("batch", 1, "2", "1"), span("persist", 2, "3", "", (("t", "2"),))])
    assert [line.split(" ms")[0].rstrip("0123456789. ") for line in drawn] == ["write", "  batch", "    ~ persist"]
