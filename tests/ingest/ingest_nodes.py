"""Ingest nodes in this process or in their own, beside a real etcd; tables are written to it as the control plane would."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from proxist import config as settings
from proxist.etcd import Catalog, EtcdClient, ShardRecord, TableRecord, layout
from proxist.etcd.ops import Op, Put
from proxist.etcd.records import encode
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.service import Lifeline, parse_ready_line
from proxist_ingest.config import DEFAULTS, IngestConfig
from proxist_ingest.node import IngestNode

WAIT_S = 30.0


def flags(data_dir: Path, etcd: str, name: str = "ingest-0", **more: Any) -> list[str]:
    """The command line of a node; ports are free ones."""
    values = {"name": name, "data_dir": data_dir / name, "run_dir": data_dir / f"{name}.run", "etcd": etcd}
    values |= {"flight_port": 0, "grpc_port": 0, "http_port": 0, "stop_grace_s": 3, **more}
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


class Node:
    """A node in this process; a context manager."""

    def __init__(self, data_dir: Path, etcd: str, name: str = "ingest-0", **more: Any) -> None:
        config = settings.load(IngestConfig, flags(data_dir, etcd, name, **more), env={}, defaults=DEFAULTS)
        self.lifeline = Lifeline()
        self.node = IngestNode(config, self.lifeline)
        self.endpoints: Mapping[str, str] = {}
        self.peer: FlightPeer

    def start(self) -> Node:
        self.endpoints = self.node.start()
        self.peer = FlightPeer(self.endpoints["flight"])
        return self

    def stop(self) -> None:
        self.peer.close()
        assert self.node.stop(5.0) == []

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Process:
    """A node in a process of its own; a context manager that kills it."""

    def __init__(
        self, data_dir: Path, etcd: str, name: str = "ingest-0", *, module: str = "proxist_ingest", **more: Any
    ) -> None:
        command = [sys.executable, "-m", module, *flags(data_dir, etcd, name, **more)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PROXIST_")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def ready(self) -> dict[str, str]:
        """The fields of the ready line."""
        while (line := self.lines.get(timeout=WAIT_S)) is not None:
            if (fields := parse_ready_line(line)) is not None:
                return fields
        raise AssertionError(f"the node ended: {''.join(self.errors[-20:])}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join()
        return code

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)


def create_table(client: EtcdClient, spec: Mapping[str, Any], nodes: list[str], first_id: int = 1) -> Table:
    """Write a table whose slots are placed on `nodes`, one after the other."""
    parsed = parse_spec(dict(spec))
    shards = tuple(ShardId(first_id + slot) for slot in range(parsed.shards))
    table = Table(TableId(first_id), "default", parsed, shards)
    ops: list[Op] = [
        Put(layout.table_key("default", table.name), encode(TableRecord(table).to_json())),
        Put(layout.LAST_SHARD_ID, str(shards[-1]).encode()),
        Put(layout.LAST_TABLE_ID, str(table.id).encode()),
    ]
    for slot, shard in enumerate(shards):
        record = ShardRecord(shard, "default", table.name, table.id, slot, nodes[slot % len(nodes)])
        ops.append(Put(layout.shard_key(shard), encode(record.to_json())))
    assert client.txn([], ops).succeeded
    return table


def wait_owned(catalog: Catalog, table: Table) -> None:
    """Until every shard of `table` accepts rows, and the catalog shows it."""
    assert catalog.wait_until(lambda now: all(now.owner(shard) for shard in table.shard_ids), WAIT_S)


def put(
    peer: FlightPeer, batch: pa.RecordBatch, metadata: Mapping[str, Any] | None = None, table: str = "trades"
) -> Any:
    """One DoPut of one batch: its ack, or the error raised."""
    stream = peer.do_put([table], batch.schema, timeout_s=WAIT_S)
    stream.write(batch, metadata or {})
    ack = stream.read_ack()
    stream.done_writing()
    stream.close()
    return ack
