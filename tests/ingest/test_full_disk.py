"""A node whose disk is full, its ballast used up: one shard waits for room, the others go on, and dropping a table frees it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from ingest_nodes import WAIT_S, Node, put, wait_owned
from ingest_rows import rows
from snapshotted import owner_in, write
from two_tables import FIRST, SECOND

from proxist.errors import Overloaded
from proxist.etcd import Catalog, EtcdClient, layout
from proxist.etcd.ops import Delete, Put
from proxist.etcd.records import encode
from proxist.etcd.shards import change_table
from proxist.model.table import Table
from proxist.testing.etcd import LocalEtcd
from proxist.wal import OsFiles, shard_directory
from proxist_ingest import opening


@pytest.fixture
def home(tmp_path: Path, etcd: LocalEtcd, catalog: Catalog, tables: list[Table]) -> Path:
    """The node's directory after a stop, with ten rows in each table."""
    with Node(tmp_path, etcd.address, ballast_mib=0) as node:
        for one in tables:
            wait_owned(catalog, one)
            put(node.peer, rows(10), {"producer": "p", "seq": 1}, table=one.name)
    return tmp_path / "ingest-0"


def without_room(monkeypatch: pytest.MonkeyPatch, home: Path, full: Callable[[], bool]) -> None:
    """No file with a size fits into the directory of the first shard while `full()`."""
    create, directory = OsFiles.create, shard_directory(home, FIRST)

    def refusing(self: OsFiles, path: Path, size: int) -> int:
        if size and path.is_relative_to(directory) and full():
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(self, path, size)

    monkeypatch.setattr(OsFiles, "create", refusing)


def no_room(*_: Any) -> None:
    raise Overloaded("The disk has no room for the next segment.")


def test_a_shard_that_finds_no_room_for_its_log_waits_for_it_and_the_others_open(
    tmp_path: Path, etcd: LocalEtcd, catalog: Catalog, tables: list[Table], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    full.set()
    without_room(monkeypatch, home, full.is_set)
    with Node(tmp_path, etcd.address, ballast_mib=0) as node:
        assert put(node.peer, rows(10, first=10), {"producer": "p", "seq": 2}, table="quotes")["rows"] == 10
        with pytest.raises(Overloaded, match="no room for the next segment"):
            put(node.peer, rows(10, first=10), {"producer": "p", "seq": 2}, table="trades")
        assert list(node.node.health()["refused"]) == ["1"]
        assert catalog.wait_until(lambda now: isinstance(now.refusal(FIRST), Overloaded), WAIT_S)
        full.clear()
        wait_owned(catalog, tables[0])
        assert catalog.wait_until(lambda now: now.refusal(FIRST) is None, WAIT_S)
        assert put(node.peer, rows(10, first=10), {"producer": "p", "seq": 2}, table="trades")["rows"] == 10
        assert node.lifeline.error is None


def test_what_dropped_tables_left_goes_before_any_shard_opens(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog, tables: list[Table], home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dropped = shard_directory(home, SECOND)
    assert dropped.exists()
    client.txn([], [Delete(layout.table_key("default", "quotes")), Delete(layout.shard_key(SECOND))])
    without_room(monkeypatch, home, dropped.exists)
    with Node(tmp_path, etcd.address, ballast_mib=0) as node:
        assert not dropped.exists()
        assert node.node.health()["refused"] == {}
        assert node.node.local(FIRST).marks().end == 10


def test_a_table_can_be_dropped_though_its_logs_find_no_room_for_a_seal(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog, tables: list[Table]
) -> None:
    with Node(tmp_path, etcd.address, ballast_mib=0) as node:
        wait_owned(catalog, tables[0])
        put(node.peer, rows(10), {"producer": "p", "seq": 1}, table="trades")
        node.node.local(FIRST).log_writer.seal = no_room
        change_table(client, "default", "trades", state="dropping")
        assert catalog.wait_until(lambda now: now.owner(FIRST) is None, WAIT_S)
        (entry,) = catalog.shard(FIRST).logs
        assert (entry.state, entry.end) == ("sealed", 10)
        assert node.lifeline.error is None
        assert node.node.state == "ready"


def test_a_release_that_etcd_did_not_take_says_what_it_means(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog, tables: list[Table],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    released = threading.Event()
    release = opening.Opener.release
    monkeypatch.setattr(opening.Opener, "release", lambda *args: (release(*args), released.set()))
    with structlog.testing.capture_logs() as told, Node(tmp_path, etcd.address, ballast_mib=0):
        wait_owned(catalog, tables[0])
        moved = replace(catalog.shard(FIRST), node="ingest-9")
        client.txn([], [Put(layout.shard_key(FIRST), encode(moved.to_json()))])
        assert released.wait(WAIT_S)
    (line,) = [one for one in told if "was not sealed in etcd" in one["event"]]
    assert (line["log_level"], line["shard"]) == ("warning", FIRST)
    assert "recovered as after a crash" in line["event"]
    assert not any(one["event"] == "shard released" and one["shard"] == FIRST for one in told)


def test_a_shard_that_cannot_end_does_not_keep_the_others_open(
    tmp_path: Path, etcd: LocalEtcd, catalog: Catalog, tables: list[Table]
) -> None:
    with structlog.testing.capture_logs() as told, Node(tmp_path, etcd.address, ballast_mib=0) as node:
        for one in tables:
            wait_owned(catalog, one)
        first, second = node.node.open_shards()
        stop, first.stop = first.stop, lambda *_: 1 / 0
    assert any(one["log_level"] == "error" and one.get("shard") == FIRST for one in told)
    assert second.hot._closed
    assert second.log_writer._sealed
    stop()


def test_a_log_without_room_for_its_seal_is_closed_whole(tmp_path: Path) -> None:
    owner = owner_in(tmp_path)
    shard = owner.open()
    end = write(owner, 0, 4)
    shard.log_writer.seal = no_room  # type: ignore[method-assign]
    assert shard.stop(), "all of it is on disk"
    assert (shard.log_writer.synced, shard.log_writer._fd) == (end, -1)
    assert shard.hot._closed
    assert shard.snapshots._closed
    assert owner.fatal == []
    owner.page.close()
    owner.record = owner.record.sealed(shard.log_writer.end)
    assert owner.open().marks().end == end
    owner.close()


def test_a_disk_that_fails_under_the_seal_ends_the_node_and_closes_the_shard(tmp_path: Path) -> None:
    owner = owner_in(tmp_path)
    shard = owner.open()
    write(owner, 0, 4)

    def failing(*_: Any) -> None:
        raise MemoryError("no memory for the seal")

    shard.log_writer._append_locked = failing  # type: ignore[method-assign]
    shard.stop()
    assert owner.failed.is_set()
    assert shard.hot._closed
    assert shard.snapshots._closed
    assert shard.log_writer._fd == -1
    owner.page.close()
