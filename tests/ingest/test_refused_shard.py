"""One damaged log stops one shard: the others go on, everybody is told why, and an operator's decision opens it again."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ingest_nodes import WAIT_S, Node, put, wait_owned
from ingest_rows import rows, table
from ingest_shards import Owner
from two_tables import FIRST as BROKEN
from two_tables import SECOND as SOUND

from proxist.cli.control import shard_row
from proxist.cli.wal_files import reports_of_shard
from proxist.client.topology import parse_topology
from proxist.client.wire import Wire
from proxist.errors import LogCorrupt, Overloaded
from proxist.etcd import Catalog, EtcdClient
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.testing.etcd import LocalEtcd
from proxist.wal import OsFiles, shard_directory
from proxist.wal._walk import Walker
from proxist.wal.verify import accept_loss
from proxist_controlplane.wire import shard_to_wire
from proxist_query.hot import Hot


def damage(data_dir: Path, shard: ShardId, offset: int) -> Path:
    """Flip a bit of the record that begins with row `offset` of the shard's oldest log; which file that is."""
    log_dir = min(shard_directory(data_dir, shard).iterdir())
    walker = Walker(log_dir)
    while walker.offset != offset or walker.records == 0:
        walker.next()
    path, position = walker.file.path, walker.position
    walker.close()
    with path.open("r+b") as file:
        file.seek(position + 150)
        (byte,) = file.read(1)
        file.seek(position + 150)
        file.write(bytes([byte ^ 1]))
    return path


def health(node: Node) -> dict[str, Any]:
    with urllib.request.urlopen(node.endpoints["http"] + "/health", timeout=WAIT_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def write_and_damage(data_dir: Path, etcd: LocalEtcd, catalog: Catalog, tables: list[Table]) -> Path:
    """Six acked batches of ten rows in each table; then the second one of `trades` is damaged. The node's directory."""
    with Node(data_dir, etcd.address) as node:
        for one in tables:
            wait_owned(catalog, one)
            for number in range(6):
                put(node.peer, rows(10, first=10 * number), {"producer": "p", "seq": number + 1}, table=one.name)
    directory = data_dir / "ingest-0"
    damage(directory, BROKEN, 10)
    return directory


def test_the_others_go_on_and_everybody_is_told(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog, tables: list[Table]
) -> None:
    _, quotes = tables
    directory = write_and_damage(tmp_path, etcd, catalog, tables)
    with Node(tmp_path, etcd.address) as node:
        wait_owned(catalog, quotes)
        assert put(node.peer, rows(10, first=60), {"producer": "p", "seq": 7}, table="quotes")
        assert node.node.local(SOUND).marks().end == 70
        command = f"pxctl wal repair {directory} --shard 1 --epoch 1 --accept-loss"
        with pytest.raises(LogCorrupt, match=r"Rows from offset 10 up to 20 \(exclusive\)") as caught:
            put(node.peer, rows(10, first=60), {"producer": "p", "seq": 7}, table="trades")
        assert command in caught.value.message
        told = health(node)
        assert (told["state"], list(told["refused"])) == ("ready", ["1"])
        assert command in told["refused"]["1"]
        assert catalog.wait_until(lambda now: now.refusal(BROKEN) is not None, WAIT_S)
        with pytest.raises(LogCorrupt, match="offset 10 up to 20"):
            Hot(catalog, None, None, "").owner(BROKEN)  # type: ignore[arg-type]  # how a query finds the owner
        row = shard_row(shard_to_wire(catalog.shard(BROKEN), catalog.owner(BROKEN), catalog.refusal(BROKEN)))
        assert row["state"] == "refused"
        assert command in row["error"]
        wire = Wire(node.endpoints["flight"])
        known = parse_topology(wire.action("topology", {}, WAIT_S))
        wire.close()
        assert isinstance(known.table("trades").no_owner(0), LogCorrupt)
        assert known.table("quotes").owners[0] is not None


def test_an_operators_decision_opens_the_shard_without_a_restart(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog, tables: list[Table]
) -> None:
    trades, _ = tables
    directory = write_and_damage(tmp_path, etcd, catalog, tables)
    with Node(tmp_path, etcd.address) as node:
        assert catalog.wait_until(lambda now: now.refusal(BROKEN) is not None, WAIT_S)
        (report,) = reports_of_shard(directory, BROKEN)
        assert (report.lost, report.given_up) == (((10, 20),), (10, 60))
        accept_loss(report, OsFiles())
        wait_owned(catalog, trades)
        assert catalog.wait_until(lambda now: now.refusal(BROKEN) is None, WAIT_S)
        shard = node.node.local(BROKEN)
        assert shard is not None
        assert shard.marks().end == 10, "the log ends where it was sound"
        assert put(node.peer, rows(10, first=10), {"producer": "p", "seq": 2}, table="trades")["rows"] == 10
        assert health(node)["refused"] == {}
    with Node(tmp_path, etcd.address) as node:  # the decision stands, and the chain goes on
        wait_owned(catalog, trades)
        assert node.node.local(BROKEN).marks().end == 20


def test_rows_are_refused_while_a_node_has_no_ballast_and_taken_again_by_itself(
    tmp_path: Path, etcd: LocalEtcd, catalog: Catalog, tables: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node(tmp_path, etcd.address, ballast_mib=1) as node:
        wait_owned(catalog, tables[0])
        ballast = tmp_path / "ingest-0" / "BALLAST"
        assert ballast.stat().st_size == 2**20
        volume = node.node._opener.volume
        monkeypatch.setattr(volume.files, "free_bytes", lambda _: 0)
        assert volume.make_room(), "as a mark does that finds the disk full"
        with pytest.raises(Overloaded, match="kept for marks and snapshots") as refused:
            put(node.peer, rows(1), table="trades")
        assert refused.value.retry_after_s == 1.0
        restored = threading.Event()
        restore = volume.restore_ballast
        monkeypatch.setattr(volume, "restore_ballast", lambda: restore() and not restored.set())
        monkeypatch.setattr(volume.files, "free_bytes", lambda _: 2**40)
        assert restored.wait(WAIT_S), "the keeper looks once a second"
        assert put(node.peer, rows(1), table="trades")["rows"] == 1
        assert ballast.exists()


def test_what_an_accepted_loss_took_and_clickhouse_has_is_not_in_memory(tmp_path: Path) -> None:
    """The log is sound up to 20, and ClickHouse has the rows below 40: the shard goes on at 40, from there in memory."""
    with Owner(table(flush={"rows": 10, "age": "1h"}), tmp_path) as owner:
        for number in range(6):
            owner.write(rows(10, first=10 * number), producer="p", number=number + 1)
        owner.shard.advance_persisted(owner.shard.epoch, Offset(40))
        owner.crash()
        damage(tmp_path, BROKEN, 20)
        with pytest.raises(LogCorrupt):
            owner.open()
        (report,) = reports_of_shard(tmp_path, BROKEN)
        assert (report.lost, report.given_up) == (((20, 30),), (40, 60))
        accept_loss(report, OsFiles())
        owner.open()
        for _ in range(2):
            marks = owner.shard.marks()
            assert (marks.floor, marks.persisted) == (40, 40)
            repeat = owner.write(rows(10, first=10), producer="p", number=2)
            assert (repeat.duplicate, repeat.end) == (True, 20)
            end = owner.write(rows(10, first=1000 + marks.end)).end
            assert end == marks.end + 10
            assert owner.ids() == [
                number for first in range(40, end, 10) for number in range(1000 + first, 1010 + first)
            ]
            owner.close()
            owner.open()
