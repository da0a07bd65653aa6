"""`pxctl verify` and `pxctl repair` against a control plane that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxist.cli.pxctl import main
from proxist.errors import NotFound, Unavailable
from proxist.pb import controlplane_pb2 as control
from proxist.pb import controlplane_pb2_grpc, persister_pb2
from proxist.pb.persister_pb2 import Checked, Finding, Progress, Step, VerifyEvent
from proxist.rpc.grpc_server import GrpcDoor, GrpcService

Run = Callable[..., tuple[int, str, str]]
LOG = (7 << 24) + 3


def checked(shard: int = 7, **more: Any) -> VerifyEvent:
    return VerifyEvent(
        checked=Checked(**{"shard": shard, "from": 0, "to": 1000, "rows": 1000, "compared": 800, **more})
    )


def finding(shard: int = 7, **more: Any) -> VerifyEvent:
    wire = {"kind": "gap", "shard": shard, "log": LOG, "first": 5, "last": 9, "rows": 5, "remedy": "Do this."}
    return VerifyEvent(finding=Finding(**{**wire, **more}))


def step(*, done: bool = False) -> VerifyEvent:
    return VerifyEvent(step=Step(shard=7, action="insert from the log", what="offsets 5 to 9", rows=5, done=done))


class Plane(controlplane_pb2_grpc.ControlPlaneServiceServicer):
    """Two tables; answers with `events`, or raises `fails` behind them."""

    def __init__(self) -> None:
        self.events: list[VerifyEvent] = [VerifyEvent(progress=Progress(shard=7, stage="offsets")), checked()]
        self.fails: Exception | None = None
        self.asked: list[Any] = []

    def ListTables(self, request: control.ListTablesRequest, context: Any) -> control.ListTablesResponse:
        names = {"trades": "active", "quotes": "active", "old": "dropped"}
        tables = [
            control.Table(tenant="default", state=state, spec=control.TableSpec(name=name))
            for name, state in names.items()
        ]
        return control.ListTablesResponse(tables=tables)

    def DescribeTable(self, request: control.DescribeTableRequest, context: Any) -> control.DescribeTableResponse:
        if request.table != "trades":
            raise NotFound("There is no table of this name.")
        return control.DescribeTableResponse(table=control.Table(tenant="default"))

    def Verify(self, request: persister_pb2.VerifyRequest, context: Any) -> Iterator[VerifyEvent]:
        self.asked.append(request)
        yield from self.events
        if self.fails is not None:
            raise self.fails

    def Repair(self, request: persister_pb2.RepairRequest, context: Any) -> Iterator[VerifyEvent]:
        return self.Verify(request, context)


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def pxctl(plane: Plane, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`pxctl("verify", …)` -> (exit code, stdout, stderr)."""
    name = "proxist.controlplane.v1.ControlPlaneService"
    add = controlplane_pb2_grpc.add_ControlPlaneServiceServicer_to_server
    door = GrpcDoor([GrpcService(name, add, plane)], "127.0.0.1", 0)
    door.start()

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--controlplane", door.address])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    assert door.stop(5.0) == []


def test_every_active_table_is_verified_where_none_is_named(pxctl: Run, plane: Plane) -> None:
    code, out, err = pxctl("verify")
    assert (code, err) == (0, "")
    assert [(one.table, one.HasField("shard")) for one in plane.asked] == [("trades", False), ("quotes", False)]
    assert "trades shard 7: offsets 0 to 1000, 1,000 rows stored, 800 compared with the log: nothing is wrong." in out


def test_bounds_and_shard_are_passed_on(pxctl: Run, plane: Plane) -> None:
    assert pxctl("verify", "trades", "--shard", "7", "--from", "0", "--to", "50")[0] == 0
    (asked,) = plane.asked
    assert (asked.shard, asked.HasField("from"), getattr(asked, "from"), asked.to) == (7, True, 0, 50)


def test_a_finding_is_told_with_its_remedy_and_ends_with_code_1(pxctl: Run, plane: Plane) -> None:
    plane.events = [finding(kind="altered", columns=["price"]), checked(note="The shard has no owner now.")]
    code, out, _ = pxctl("verify", "trades")
    assert code == 1
    assert f"altered: offsets 5 to 9 of log {LOG}, 5 rows in price. Do this." in out
    assert "1 findings. The shard has no owner now." in out


@pytest.mark.parametrize("way", [("--json",), ("-o", "json")])
def test_json_has_every_finding(pxctl: Run, plane: Plane, way: tuple[str, ...]) -> None:
    plane.events = [finding(), checked(), finding(8, kind="copies"), checked(8)]
    code, out, _ = pxctl("verify", "trades", *way)
    (table,) = json.loads(out)
    assert code == 1
    assert [(f["shard"], f["kind"], f["first"], f["last"]) for f in table["findings"]] == [
        (7, "gap", 5, 9),
        (8, "copies", 5, 9),
    ]
    assert [one["shard"] for one in table["checked"]] == [7, 8]


def test_a_plan_is_shown_and_nothing_is_asked_to_be_done(pxctl: Run, plane: Plane) -> None:
    plane.events = [finding(), checked(), step()]
    code, out, _ = pxctl("repair", "trades")
    assert code == 1
    assert plane.asked[0].execute is False
    for words in ("insert from the log", "offsets 5 to 9", "Nothing was changed", "--yes"):
        assert words in out


def test_after_a_repair_the_second_round_counts(pxctl: Run, plane: Plane) -> None:
    plane.events = [
        finding(),
        finding(kind="conflict"),
        checked(),
        step(),
        step(done=True),
        finding(kind="conflict"),
        checked(),
    ]
    code, out, _ = pxctl("repair", "trades", "--yes", "--json")
    said = json.loads(out)
    assert (code, said["taken"]) == (1, 1)
    assert [f["kind"] for f in said["findings"]] == ["conflict"]
    plane.events = [finding(), checked(), step(), step(done=True), checked()]
    assert pxctl("repair", "trades", "--yes")[0] == 0
    assert plane.asked[-1].execute is True


def test_what_ends_a_round_early_is_an_error_and_not_a_clean_answer(pxctl: Run, plane: Plane) -> None:
    plane.events, plane.fails = [], Unavailable("No persister holds shard 7.")
    code, out, err = pxctl("verify", "trades")
    assert (code, out) == (69, "")
    assert "No persister holds shard 7." in err


def test_a_table_that_is_not_there_is_named(pxctl: Run) -> None:
    assert pxctl("verify", "nothing")[0] == 66
    assert pxctl("repair", "nothing")[0] == 66
