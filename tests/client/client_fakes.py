"""A cluster of fakes behind real Flight doors: owners that number and store rows, and faults on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from proxist.errors import NotFound, ProducerConflict, ProducerGap, ProxistError, Unavailable
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.receipt import RECEIPT_METADATA_KEY
from proxist.model.table import Table, parse_spec
from proxist.model.token import Mark, Token
from proxist.rpc.flight_server import BatchStream, Call, FlightDoor, FlightHandler
from proxist.rpc.session import SessionAnswer, serve_session

SPEC = {
    "name": "trades", "time": "ts", "key": "symbol", "seq": "trade_id",
    "columns": [
        {"name": "symbol", "type": "string"}, {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "trade_id", "type": "uint64"}, {"name": "price", "type": "double"},
    ],
}  # fmt: skip


def rows(count: int, first: int = 0, symbols: int = 5) -> pa.Table:
    ids = range(first, first + count)
    return pa.table(
        {
            "symbol": pa.array([f"S{i % symbols}" for i in ids], pa.string()),
            "ts": pa.array(list(ids), pa.timestamp("ns", "UTC")),
            "trade_id": pa.array(list(ids), pa.uint64()),
            "price": pa.array([i / 4 for i in ids], pa.float64()),
        }
    )


class FakeCluster:
    """Nodes by name; slot i of the only table belongs to `owners[i % len(owners)]`."""

    def __init__(self, owners: int, slots: int, queries: int = 1) -> None:
        spec = parse_spec({**SPEC, "shards": slots})
        self.table = Table(TableId(1), "default", spec, tuple(ShardId(100 + slot) for slot in range(slots)))
        self.created = True
        self.nodes = {f"ingest-{n}": FakeNode(self, f"ingest-{n}", "ingest") for n in range(owners)}
        self.nodes |= {f"query-{n}": FakeNode(self, f"query-{n}", "query") for n in range(queries)}

    def owner_of(self, slot: int) -> FakeNode:
        owners = [node for name, node in sorted(self.nodes.items()) if node.role == "ingest"]
        return owners[slot % len(owners)]

    def stored(self) -> list[int]:
        """The trade ids that the owners have, in no order."""
        batches = [batch for node in self.nodes.values() for batch in node.accepted]
        return [i for batch in batches for i in batch["trade_id"].to_pylist()]

    def topology(self, asked: str) -> dict[str, Any]:
        shards = [
            {"shard": shard, "slot": slot, "node": self.owner_of(slot).name, "epoch": 1}
            for slot, shard in enumerate(self.table.shard_ids)
        ]
        table = {"table": self.table.to_json(), "state": "active", "paused": False, "shards": shards}
        return {
            "node": asked,
            "nodes": [{"name": n.name, "role": n.role, "flight": n.uri} for n in self.nodes.values()],
            "tables": [table] if self.created else [],
        }

    @contextmanager
    def running(self) -> Iterator[FakeCluster]:
        for node in self.nodes.values():
            node.start()
        try:
            yield self
        finally:
            for node in self.nodes.values():
                node.end()


class Road:
    """The TCP way to a door, which can be cut: open connections break at once, as when the process is killed."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def cut(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, threads = self._sockets, self._threads
            self._sockets, self._threads = [], []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for one in sockets:
            one.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets += [near, far]
                self._start(self._carry, near, far)
                self._start(self._carry, far, near)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class FakeNode(FlightHandler):
    """What it accepted outlives `stop` and `start`, as a log does; `fault` may raise instead of an ack."""

    def __init__(self, cluster: FakeCluster, name: str, role: str) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._last: dict[tuple[str, int], int] = {}
        self._content: dict[tuple[str, int, int], pa.RecordBatch] = {}
        self._road: Road | None = None
        self.name, self.role = name, role
        self.accepted: list[pa.RecordBatch] = []
        self.metadata: list[dict[str, Any]] = []
        self.queries: list[dict[str, Any]] = []
        self.fault: Callable[[dict[str, Any]], ProxistError | None] = lambda _: None
        self.lose_ack: Callable[[dict[str, Any]], bool] = lambda _: False
        self.answer: Callable[[dict[str, Any], pa.RecordBatch | None], pa.Table] = lambda *_: rows(2)
        self.calls: dict[str, int] = defaultdict(int)
        self.door: FlightDoor | None = None
        self.up = False

    @property
    def uri(self) -> str:
        assert self._road is not None
        return f"grpc://127.0.0.1:{self._road.port}"

    def start(self) -> None:
        """Answers again under the same address."""
        if self._road is None:
            self.door = FlightDoor(self, "127.0.0.1", 0)
            self._road = Road(self.door.port)
        self._road.open()
        self.up = True

    def stop(self) -> None:
        """Every connection breaks and nobody answers until `start`."""
        assert self._road is not None
        if self.up:
            self._road.cut()
        self.up = False

    def end(self) -> None:
        self.stop()
        assert self.door is not None
        assert self.door.stop(10.0) == []

    def do_put(self, call: Call, descriptor: Any, reader: Any, writer: Any) -> None:
        while not call.cancelled():
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                return
            told = json.loads(chunk.app_metadata.to_pybytes())
            if (error := self.fault(told)) is not None:
                raise error
            ack = self._accept(chunk.data, told)
            if self.lose_ack(told):
                raise Unavailable("The connection broke after the batch was stored.")
            writer.write(pa.py_buffer(json.dumps(ack).encode()))
        call.check()

    def _accept(self, batch: pa.RecordBatch, told: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.metadata.append(told)
            producer, slot, seq = told["producer"], told.get("slot", 0), told["seq"]
            last = self._last.get((producer, slot))
            if duplicate := (last is not None and seq <= last):
                if not self._content[producer, slot, seq].equals(batch):
                    raise ProducerConflict(f"Number {seq} of {producer} came with other content.")
            elif last is not None and seq != last + 1:
                raise ProducerGap(f"Producer {producer} sent {seq}, but {last + 1} is next.")
            else:
                self._last[producer, slot] = seq
                self._content[producer, slot, seq] = batch
                self.accepted.append(batch)
            end = sum(b.num_rows for b in self.accepted)
            token = Token({self._cluster.table.shard_ids[slot]: Mark(Epoch(1), Offset(end))})
            durability = told.get("durability", "disk")
            return {"rows": batch.num_rows, "duplicate": duplicate, "durability": durability, "token": str(token)}

    def do_get(self, call: Call, ticket: bytes) -> pa.Table | BatchStream:
        query = json.loads(ticket)
        answer = self._answer(query, None)
        receipt = json.dumps(answer.receipt).encode()
        if "late_receipt" in query.get("sql", ""):
            *head, last = answer.rows.to_batches(max_chunksize=1)
            return BatchStream(answer.rows.schema, [*((batch, None) for batch in head), (last, receipt)])
        return answer.rows.replace_schema_metadata({RECEIPT_METADATA_KEY: receipt})

    def do_exchange(self, call: Call, descriptor: Any, reader: Any, writer: Any) -> None:
        self.calls["session"] += 1
        serve_session(call, reader, writer, self._answer)

    def _answer(self, query: dict[str, Any], probes: pa.RecordBatch | None) -> SessionAnswer:
        with self._lock:
            self.queries.append(query)
        return SessionAnswer(self.answer(query, probes), {"mode": "hot", "token": "px1.AAAAAA"})

    def do_action(self, call: Call, name: str, body: bytes) -> Iterable[bytes]:
        told = json.loads(body)
        self.calls[name] += 1
        if name == "topology":
            return [json.dumps(self._cluster.topology(self.name)).encode()]
        if name == "producer":
            slots = [s for s in range(len(self._cluster.table.shard_ids)) if self._cluster.owner_of(s) is self]
            lasts = {str(slot): self._last.get((told["producer"], slot)) for slot in slots}
            return [json.dumps({"last": None, "slots": lasts}).encode()]
        if name == "create_table":
            self._cluster.created = True
        elif told.get("table") != "trades":
            raise NotFound(f"Table {told.get('table')!r} is not there.")
        elif name == "drop_table":
            self._cluster.created = False
        return [b"{}"]


@pytest.fixture
def one_owner() -> Iterator[FakeCluster]:
    with FakeCluster(1, 1).running() as cluster:
        yield cluster


@pytest.fixture
def three_slots() -> Iterator[FakeCluster]:
    """Three slots on two owners."""
    with FakeCluster(2, 3).running() as cluster:
        yield cluster
