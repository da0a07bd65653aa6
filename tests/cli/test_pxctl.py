"""pxctl against a control plane over real gRPC: what each verb asks, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from client_fakes import SPEC

from proxist.cli.pxctl import hoist, main
from proxist.errors import InvalidArgument, NotFound, Paused, ProxistError, Unavailable
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc as pb_grpc
from proxist.rpc.grpc_server import GrpcDoor, GrpcService
from proxist.rpc.tls import PLAIN
from proxist.testing.tls import DevCerts

MARK = pb.Watermark(table="trades", shard=7, epoch=3, floor=100, persisted=2_000, end=2_500, t_persisted=10**18)
MARK_JSON = {
    "table": "trades", "shard": 7, "epoch": 3, "floor": 100, "persisted": 2_000, "end": 2_500, "t_persisted": 10**18,
}  # fmt: skip
NODE = pb.Node(
    name="ingest-0", role="ingest", pid=4711, flight="grpc://a:1", grpc="a:2", http="http://a:3", state="ready"
)
SPEC_MESSAGE = pb.TableSpec(name="trades", time="ts", key="symbol", shards=1, durability="disk", hot_window="1h")

Run = Callable[..., tuple[int, str, str]]


class FakeControlPlane(pb_grpc.ControlPlaneServiceServicer):
    """Remembers requests by method; answers from `answers`, which may hold an error to raise."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.answers: dict[str, Any] = {
            "Status": pb.StatusResponse(nodes=[NODE], shards=[MARK]),
            "ListTables": pb.ListTablesResponse(tables=[pb.Table(id=1, tenant="default", spec=SPEC_MESSAGE, state="active")]),
            "CreateTable": pb.CreateTableResponse(table=pb.Table(id=1, spec=SPEC_MESSAGE, shard_ids=[7])),
            "DropTable": pb.DropTableResponse(),
            "ListShards": pb.ListShardsResponse(shards=[pb.Shard(table="trades", shard=7, node="ingest-0", epoch=3, state="owned")]),
            "Watermarks": pb.WatermarksResponse(watermarks=[MARK, pb.Watermark(table="trades", shard=8)]),
            "Flush": pb.FlushResponse(),
            "Evict": pb.EvictResponse(watermarks=[MARK]),
            "PausePersist": pb.PausePersistResponse(),
            "ResumePersist": pb.ResumePersistResponse(),
        }  # fmt: skip


def _method(name: str) -> Callable[..., Any]:
    def answer(self: FakeControlPlane, request: Any, context: Any) -> Any:
        self.asked[name] = request
        found = self.answers[name]
        if isinstance(found, threading.Event):
            found.wait(20)
            return None
        if isinstance(found, ProxistError):
            raise found
        return found

    return answer


for _name in FakeControlPlane().answers:
    setattr(FakeControlPlane, _name, _method(_name))


@pytest.fixture
def plane() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture
def pxctl(plane: FakeControlPlane, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`pxctl("status", …)` -> (exit code, stdout, stderr)."""
    name = "proxist.controlplane.v1.ControlPlaneService"
    door = GrpcDoor([GrpcService(name, pb_grpc.add_ControlPlaneServiceServicer_to_server, plane)], "127.0.0.1", 0)
    door.start()

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--controlplane", door.address])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    assert door.stop(5.0) == []


def as_json(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "-o", "json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_status_shows_nodes_shards_and_lag(pxctl: Run) -> None:
    node = {
        "name": "ingest-0", "role": "ingest", "pid": 4711, "flight": "grpc://a:1", "grpc": "a:2", "http": "http://a:3",
        "state": "ready",
    }  # fmt: skip
    assert as_json(pxctl, "status") == {"nodes": [node], "shards": [{**MARK_JSON, "lag": 500, "warm": 0}], "silent": []}
    code, out, _ = pxctl("status")
    assert code == 0
    for text in ("ingest-0", " 4711 ", " a:1 ", "2,500", "500", "2001-09-09T01:46:40Z"):
        assert text in out


def test_status_names_shards_whose_owner_does_not_answer(pxctl: Run, plane: FakeControlPlane) -> None:
    plane.answers["Status"] = pb.StatusResponse(nodes=[NODE])
    shard = {"table": "trades", "shard": 7, "slot": 0, "node": "ingest-0", "epoch": 3, "state": "owned"}
    assert as_json(pxctl, "status")["silent"] == [shard]
    assert "shards whose owner does not answer\n" in "\n".join(line.rstrip() for line in pxctl("status")[1].split("\n"))
    plane.answers["ListShards"] = Unavailable("etcd is down.")
    assert as_json(pxctl, "status")["silent"] == []


def test_an_insecure_node_is_shown_as_such(pxctl: Run, plane: FakeControlPlane) -> None:
    plane.answers["Status"] = pb.StatusResponse(nodes=[pb.Node(name="query-0", insecure=True)])
    assert as_json(pxctl, "status")["nodes"][0]["insecure"] is True
    assert "insecure" in pxctl("status")[1]


def test_a_failed_handshake_is_not_a_control_plane_that_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxist.rpc.tls._own", PLAIN)  # which `main` replaces
    certs, strangers = DevCerts(tmp_path / "certs"), DevCerts(tmp_path / "strangers")
    door = GrpcDoor([], "127.0.0.1", 0, tls=certs.server)
    door.start()
    with pytest.raises(SystemExit) as ended:
        main(["status", "--controlplane", door.address, "--timeout", "0.5", "--tls-ca", str(strangers.ca)])
    assert (ended.value.code, door.stop(5.0)) == (69, [])
    assert f"The handshake with {door.address} failed" in capsys.readouterr().err


def test_watermarks_have_one_entry_per_shard(pxctl: Run, plane: FakeControlPlane) -> None:
    other = {**dict.fromkeys(MARK_JSON, 0), "table": "trades", "shard": 8, "t_persisted": None}
    assert as_json(pxctl, "watermarks", "trades") == [MARK_JSON, other]
    assert plane.asked["Watermarks"].table == "trades"
    assert yaml.safe_load(pxctl("-o", "yaml", "watermarks")[1]) == [MARK_JSON, other]
    assert "2,000" in pxctl("watermarks")[1]


def test_tables_and_shards(pxctl: Run, plane: FakeControlPlane) -> None:
    (table,) = as_json(pxctl, "tables")
    assert (table["name"], table["hot_window"], table["state"]) == ("trades", "1h", "active")
    assert "trades" in pxctl("tables")[1]
    (shard,) = as_json(pxctl, "shards")
    assert shard == {"table": "trades", "shard": 7, "slot": 0, "node": "ingest-0", "epoch": 3, "state": "owned"}
    plane.answers["ListTables"] = pb.ListTablesResponse()
    assert "none" in pxctl("tables")[1]


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_create_table_takes_json_and_yaml(pxctl: Run, plane: FakeControlPlane, tmp_path: Path, dump: Any) -> None:
    path = tmp_path / "spec"
    path.write_text(dump({**SPEC, "shards": 3, "hot_window": "10m"}))
    assert as_json(pxctl, "create-table", str(path))["shard_ids"] == [7]
    sent = plane.asked["CreateTable"].spec
    assert (sent.name, sent.shards, [c.name for c in sent.columns]) == (
        "trades",
        3,
        ["symbol", "ts", "trade_id", "price"],
    )
    assert "'trades' is there" in pxctl("create-table", str(path))[1]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("{", 64, "not JSON or YAML"),
        ("name: 7x", 64, "'7x'"),
        ("{name: t, time: a, key: b, columns: []}", 64, "columns"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(pxctl: Run, tmp_path: Path, text: str, code: int, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    ended, out, err = pxctl("create-table", str(path))
    assert (ended, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert pxctl("create-table", str(tmp_path / "none"))[0] == 64


def test_the_commands_name_their_table(pxctl: Run, plane: FakeControlPlane) -> None:
    for arguments, method, text in (
        (("drop-table", "trades"), "DropTable", "dropped"),
        (("flush", "trades"), "Flush", "persisted"),
        (("persist", "pause", "trades"), "PausePersist", "pxctl persist resume trades"),
        (("persist", "resume", "trades"), "ResumePersist", "persisted again"),
    ):
        assert text in pxctl(*arguments)[1]
        assert plane.asked[method].table == "trades"
        assert as_json(pxctl, *arguments)["table"] == "trades"
    assert 5_000 < plane.asked["Flush"].timeout_ms < 10_000


def test_a_caller_of_every_tenant_says_whose_table_it_means(
    pxctl: Run, plane: FakeControlPlane, tmp_path: Path
) -> None:
    spec = tmp_path / "spec"
    spec.write_text(json.dumps(SPEC))
    for arguments, method in (
        (("tables",), "ListTables"),
        (("create-table", str(spec)), "CreateTable"),
        (("drop-table", "trades"), "DropTable"),
        (("shards", "trades"), "ListShards"),
        (("watermarks", "trades"), "Watermarks"),
        (("flush", "trades"), "Flush"),
        (("evict", "trades", "--all"), "Evict"),
        (("persist", "pause", "trades"), "PausePersist"),
        (("persist", "resume", "trades"), "ResumePersist"),
        (("top", "trades", "--once", "--interval", "0.1"), "Watermarks"),
    ):
        as_json(pxctl, *arguments, "--tenant", "acme")
        assert plane.asked[method].tenant == "acme", arguments
        as_json(pxctl, *arguments)
        assert plane.asked[method].tenant == "", arguments


def test_evict_says_how_far_in_exactly_one_way(pxctl: Run, plane: FakeControlPlane) -> None:
    for arguments, field, value in (
        (("--before", "2024-08-09T00:00:00.000000001Z"), "before_ns", 1_723_161_600_000_000_001),
        (("--before", "-5"), "before_ns", -5),
        (("--all",), "all", True),
        (("--rows", "0"), "rows", 0),
    ):
        assert as_json(pxctl, "evict", "trades", *arguments) == [MARK_JSON]
        asked = plane.asked["Evict"]
        assert asked.WhichOneof("to") == field
        assert getattr(asked, field) == value
    for wrong in ((), ("--all", "--rows", "3")):
        assert pxctl("evict", "trades", *wrong)[0] == 2
    assert "--before" in pxctl("evict", "trades", "--before", "soon")[2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("Table 'x' is not there."), 66),
        (Paused("Table 'x' is paused. Run `pxctl persist resume x`."), 75),
        (InvalidArgument("No."), 64),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    pxctl: Run, plane: FakeControlPlane, error: ProxistError, code: int
) -> None:
    plane.answers["Flush"] = error
    assert pxctl("flush", "x") == (code, "", f"error: {error.message}\n")


def test_no_answer_within_the_timeout_ends_with_code_3(pxctl: Run, plane: FakeControlPlane) -> None:
    held = plane.answers["Status"] = threading.Event()
    code, out, err = pxctl("status", "--timeout", "0.2")
    held.set()
    assert (code, out) == (3, "")
    assert err.startswith("error: ")


def test_nobody_there_ends_with_code_3_and_the_remedy(
    free_ports: Callable[[int], list[int]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXIST_CONTROLPLANE", f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(SystemExit) as ended:
        main(["status", "--timeout", "0.3"])
    assert ended.value.code == 3
    error = capsys.readouterr().err
    assert os.environ["PROXIST_CONTROLPLANE"] in error
    assert "--controlplane" in error


def test_common_options_may_stand_anywhere() -> None:
    assert hoist(["status", "-o", "json"]) == ["-o", "json", "status"]
    assert hoist(["evict", "t", "--timeout=3", "--all", "-ojson"]) == ["--timeout=3", "-ojson", "evict", "t", "--all"]
    assert hoist(["flush", "--", "-o"]) == ["flush", "--", "-o"]
    assert hoist(["status", "-o"]) == ["-o", "status"]


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from proxist.cli.pxctl import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('grpc', 'pyarrow', 'numpy', 'rich', 'yaml', 'numba') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "create-table" in done.stdout
    assert done.stderr.strip() == "[]"


def test_ctrl_c_ends_quietly(free_ports: Callable[[int], list[int]]) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [sys.executable, "-m", "proxist.cli.pxctl", "--controlplane", address, "--timeout", "30", "status"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    threads = Path(f"/proc/{process.pid}/task")
    while process.poll() is None and len(list(threads.iterdir())) < 3:  # gRPC's threads: it waits for an answer
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert "Traceback" not in err
