"""`pxctl wal`: what an operator is told of a damaged log, and what the decision to go on without it does."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from proxist.cli import pxctl
from proxist.errors import LogCorrupt
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.wal import (
    DirectoryLock,
    LogBegin,
    LogWriter,
    Volume,
    encode_body,
    persisted_record,
    recover_log,
    remove_segments,
    rows_record,
)
from proxist.wal.decision import read_decision

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])
SHARD = ShardId(4)


def write_log(data: Path, epoch: int, start: int, batches: int, *, persisted: int = 0) -> Path:
    """Batches of ten rows, each synced before the next."""
    with LogWriter.create(
        data / "wal" / str(SHARD), SHARD, Epoch(epoch), Offset(start), TableId(1), SCHEMA, 1, {"persisted": persisted}
    ) as log:
        for _ in range(batches):
            rows = pa.record_batch([pa.array(range(log.end, log.end + 10), pa.int64())], schema=SCHEMA)
            log.append([rows_record(encode_body(rows), 10, 1)])
            log.sync()
        if persisted:
            log.append([persisted_record(Offset(persisted))])
        log.seal()
    return log.log_dir


def damage(log_dir: Path, offset: int) -> None:
    """Flip a bit of the record whose rows begin at `offset`."""
    from proxist.wal._walk import Walker

    walker = Walker(log_dir)
    while walker.offset != offset or walker.records == 0:
        walker.next()
    path, position = walker.file.path, walker.position
    walker.close()
    raw = bytearray(path.read_bytes())
    raw[position + 130] ^= 4
    path.write_bytes(raw)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = 0
    try:
        pxctl.main(["wal", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_verify_says_that_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, 1, 0, 3)
    write_log(tmp_path, 2, 30, 2, persisted=40)
    code, out = run(capsys, "verify", str(tmp_path), "--json")
    assert code == 0
    found = [(one["epoch"], one["start"], one["end"], one["rows"], one["state"], one["ok"]) for one in json.loads(out)]
    assert found == [(1, 0, 30, 30, "sealed", True), (2, 30, 50, 20, "sealed", True)]
    code, out = run(capsys, "verify", str(tmp_path))
    assert code == 0
    assert "sealed" in out


def test_verify_takes_the_directorys_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, 1, 0, 1)
    with DirectoryLock(tmp_path):
        code, out = run(capsys, "verify", str(tmp_path))
    assert code == 73
    assert "is locked by process" in out


def test_verify_names_the_lost_range_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_dir = write_log(tmp_path, 1, 0, 6)
    damage(log_dir, 20)
    before = [(path.name, path.read_bytes()) for path in sorted(log_dir.iterdir())]
    code, out = run(capsys, "verify", str(tmp_path))
    assert code == 1
    assert "Rows [20, 30) cannot be read." in out
    assert "Rows [20, 60) were acknowledged and would be given up" in out
    assert f"pxctl wal repair {tmp_path} --shard 4 --epoch 1 --accept-loss" in out
    code, out = run(capsys, "verify", str(tmp_path), "--json")
    (one,) = json.loads(out)
    assert (code, one["ok"], one["lost"], one["given_up"]) == (1, False, [[20, 30]], [20, 60])
    assert one["error"]["code"] == "LOG_CORRUPT"
    assert [(path.name, path.read_bytes()) for path in sorted(log_dir.iterdir())] == before


def test_repair_asks_and_only_then_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_dir = write_log(tmp_path, 1, 0, 6, persisted=40)
    damage(log_dir, 20)
    before = [(path.name, path.read_bytes()) for path in sorted(log_dir.iterdir())]
    command = ("repair", str(tmp_path), "--shard", "4")
    code, out = run(capsys, *command)
    assert code == 1
    assert "Rows [20, 40) are in ClickHouse: they are not lost." in out
    assert "Nothing was changed" in out
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert run(capsys, *command, "--accept-loss")[0] == 1
    assert read_decision(log_dir) is None
    code, out = run(capsys, *command, "--accept-loss", "--yes")
    assert code == 0
    assert "ends at 20" in out
    decision = read_decision(log_dir)
    assert decision is not None
    assert (decision.end, decision.lost) == (20, ((20, 30),))
    recovered = recover_log(log_dir)
    assert (recovered.end, recovered.seal_at, recovered.lost) == (20, 40, ((20, 30),))
    assert [(path.name, path.read_bytes()) for path in sorted(log_dir.iterdir())] == before
    code, out = run(capsys, "verify", str(tmp_path))
    assert (code, "lost [20, 30), accepted" in out) == (0, True)
    assert "nothing to do" in run(capsys, *command)[1]


def test_a_decision_covers_no_later_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_dir = write_log(tmp_path, 1, 0, 6)
    damage(log_dir, 40)
    assert run(capsys, "repair", str(tmp_path), "--shard", "4", "--accept-loss", "--yes")[0] == 0
    assert recover_log(log_dir).end == 40
    damage(log_dir, 10)
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log_dir)
    assert caught.value.details["lost"] == [[10, 20], [40, 50]]
    accepted = log_dir.with_name("1.accepted")
    damage_of_file = accepted.read_bytes().replace(b'"end":40', b'"end":10')
    accepted.write_bytes(damage_of_file)
    assert read_decision(log_dir) is None, "a decision that is not sound was not made"


def test_a_log_whose_beginning_is_gone_is_accepted_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_dir = write_log(tmp_path, 1, 0, 6)
    (log_dir / "00000000.wal").write_bytes(b"")
    code, out = run(capsys, "repair", str(tmp_path), "--shard", "4", "--expected-end", "60", "--accept-loss", "--yes")
    assert code == 0, out
    found = recover_log(log_dir, sealed_end=Offset(60))
    assert (found.end, list(found.records())) == (0, [])


def test_an_end_that_only_etcd_knows_is_given_to_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_dir = write_log(tmp_path, 1, 0, 2)
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log_dir, persisted=25)
    command = caught.value.details["command"].split()
    assert command[-3:] == ["--expected-end", "25", "--accept-loss"]
    assert run(capsys, *command[2:], "--yes")[0] == 0
    found = recover_log(log_dir, persisted=25)
    assert (found.end, found.seal_at) == (20, 25)


def test_a_wrong_shard_or_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "it has no `wal`" in run(capsys, "verify", str(tmp_path))[1]
    write_log(tmp_path, 1, 0, 1)
    assert "has no log of shard 9" in run(capsys, "repair", str(tmp_path), "--shard", "9")[1]
    assert "has no log of shard 4, epoch 2" in run(capsys, "repair", str(tmp_path), "--shard", "4", "--epoch", "2")[1]


def test_a_log_that_was_shortened_needs_a_snapshot_or_a_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LogWriter.create(
        tmp_path / "wal" / str(SHARD), SHARD, Epoch(1), Offset(0), TableId(1), SCHEMA, 1, {}, segment_bytes=2048
    ) as log:
        while log.mark.segment < 3:
            rows = pa.record_batch([pa.array(range(log.end, log.end + 10), pa.int64())], schema=SCHEMA)
            log.append([rows_record(encode_body(rows), 10, 1)])
            log.sync()
        remove_segments(log.log_dir, 2, Volume())
    code, out = run(capsys, "verify", str(tmp_path))
    assert code == 1
    assert "no good snapshot is left, and its logs begin at offset" in out
    assert run(capsys, "repair", str(tmp_path), "--shard", "4")[0] == 1
    code, out = run(capsys, "repair", str(tmp_path), "--shard", "4", "--accept-loss", "--yes")
    assert (code, "goes on with the rows from offset" in out) == (0, True)
    (decision,) = (tmp_path / "snapshots" / "4").iterdir()
    first = int(decision.name.removeprefix("accept-loss-"))
    assert recover_log(log.log_dir, begin=LogBegin(Offset(first), None)).start == first
    code, out = run(capsys, "verify", str(tmp_path), "--json")
    assert (code, [one["state"] for one in json.loads(out)]) == (0, ["sound"])


def test_a_hole_below_a_later_log_is_shown_with_the_sound_rows_that_it_takes_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_dir = write_log(tmp_path, 1, 0, 6, persisted=10)
    write_log(tmp_path, 2, 60, 2)
    damage(log_dir, 40)
    code, out = run(capsys, "verify", str(tmp_path))
    assert code == 1
    assert "Rows [40, 50) cannot be read." in out
    assert "The log would end at 40, and the shard go on at 60." in out
    assert (
        "Rows [10, 60) were acknowledged and would be given up, also those of them that can still be read before" in out
    )
    assert run(capsys, "repair", str(tmp_path), "--shard", "4", "--accept-loss", "--yes")[0] == 0
    decision = read_decision(log_dir)
    assert decision is not None
    assert decision.lost == ((40, 50), (10, 60))
    assert "nothing to do" in run(capsys, "repair", str(tmp_path), "--shard", "4")[1]
