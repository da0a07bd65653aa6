"""The smallest service: doors of `proxist.rpc` and nothing behind them, so that `proxist up` can be tested by itself."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # isort: split

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from proxist.config import ServiceConfig
from proxist.errors import LogCorrupt, Unavailable
from proxist.rpc import service, tls
from proxist.rpc.flight_server import BatchStream, Call, FlightDoor, FlightHandler
from proxist.rpc.grpc_server import GrpcDoor
from proxist.rpc.http import HttpDoor
from proxist.rpc.service import Lifeline


class Fake(FlightHandler):
    def __init__(self, config: ServiceConfig, lifeline: Lifeline, flight: bool) -> None:
        self._config = config
        self._lifeline = lifeline
        self._flight = flight

    def start(self) -> Mapping[str, str]:
        config = self._config
        if (config.data_dir / "corrupt").exists():
            raise LogCorrupt("The log is damaged at byte 17. Run `proxist repair`.")
        if (config.data_dir / "wait").exists():
            (config.data_dir / "waiting").touch()
            self._lifeline.ended.wait()
            raise Unavailable("Stopped while waiting for etcd.")
        self.http = HttpDoor(config.host, config.http_port, self._health, tls=tls.of(config))
        self.http.start()
        self.grpc = GrpcDoor([], config.host, config.grpc_port, tls=tls.of(config))
        self.grpc.start()
        self.grpc.set_serving(True)
        endpoints = {"http": self.http.url, "grpc": self.grpc.address}
        if self._flight:
            self.door = FlightDoor(self, config.host, config.flight_port, config.flight_socket, tls=tls.of(config))
            endpoints |= {"flight": self.door.uri, "flight_unix": self.door.unix_uri or ""}
        return endpoints

    def stop(self, grace_s: float) -> list[str]:
        pending = self.door.stop(min(grace_s, 0.5)) if self._flight else []
        pending += self.grpc.stop(grace_s) + self.http.stop(grace_s)
        self._config.data_dir.mkdir(parents=True, exist_ok=True)
        (self._config.data_dir / "stopped").write_text(repr(pending))
        return pending

    def _health(self) -> Mapping[str, object]:
        return {"state": "ready", "name": self._config.name}

    def do_get(self, call: Call, ticket: bytes) -> BatchStream:
        """Endless: whoever stops reading it pins it."""
        batch = pa.record_batch({"x": pa.array(range(60_000))})

        def forever() -> object:
            while True:
                yield batch

        return BatchStream(batch.schema, forever())  # type: ignore[arg-type]

    def do_action(self, call: Call, name: str, body: bytes) -> list[bytes]:
        if name == "fail":
            threading.Thread(target=self._lifeline.fail, args=(LogCorrupt("The disk refused an fsync."),)).start()
        if name == "crash":
            os._exit(9)
        return [b"{}"]


def run(role: str, *, flight: bool) -> None:
    service.main(
        role, ServiceConfig, lambda config, lifeline: Fake(config, lifeline, flight), defaults={"name": f"{role}-0"}
    )


def package(root: Path) -> Path:
    """Fake service packages under `root`, for PYTHONPATH; they hide the real ones."""
    for role in ("ingest", "query", "persister", "controlplane"):
        folder = root / f"proxist_{role}"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(
            f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            f"import fake_service\nfake_service.run({role!r}, flight={role in ('ingest', 'query')})\n"
        )
    return root
