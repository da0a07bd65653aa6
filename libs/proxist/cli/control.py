"""Calls to the control plane for pxctl, and its messages as plain values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxist.errors import DeadlineExceeded, ProxistError, Unavailable
from proxist.pb import auth_pb2_grpc
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc as pb_grpc
from proxist.rpc import handshake
from proxist.rpc.grpc_client import connect

HANDSHAKE_S = 1.0
"""How long a call that got no answer is followed up."""

STREAM_S_MAX = 24 * 3600.0

Row = dict[str, Any]


class ControlPlane:
    """The control plane at `address`, everything within `timeout_s` of construction. Errors are Proxist's."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._channel = connect(address, timeout_s=timeout_s)
        self._stub = pb_grpc.ControlPlaneServiceStub(self._channel)
        self._auth = auth_pb2_grpc.AuthServiceStub(self._channel)

    def call(self, method: str, request: Any) -> Any:
        """Raises DeadlineExceeded where nobody listens, or no answer comes, within the time that is left."""
        return self._call(self._stub, method, request)

    def stream(self, method: str, request: Any) -> Iterator[Any]:
        """The answers of a call that takes as long as it takes, after one that was answered in time."""
        yield from getattr(self._stub, method)(request, timeout=STREAM_S_MAX)

    def call_auth(self, method: str, request: Any) -> Any:
        """The same of the AuthService."""
        return self._call(self._auth, method, request)

    def _call(self, stub: Any, method: str, request: Any) -> Any:
        try:
            # wait_for_ready: a control plane that is just starting is waited for, not refused.
            return getattr(stub, method)(request, timeout=self.left_s, wait_for_ready=True)
        except DeadlineExceeded as error:
            if not error.message.startswith(self._address):
                raise  # the control plane's own: it says what it waited for
            self._say_handshake()
            raise DeadlineExceeded(
                f"The control plane at {self._address} did not answer within {self._timeout_s:g} s. Is it running? "
                "Pass its address with --controlplane HOST:PORT or PROXIST_CONTROLPLANE, or wait longer with --timeout."
            ) from None

    def _say_handshake(self) -> None:
        """Raises Unavailable where the handshake fails: gRPC waits for such a door as for one that is starting, and only
        a call that does not wait is told."""
        probe = health_pb2_grpc.HealthStub(self._channel)
        try:
            probe.Check(health_pb2.HealthCheckRequest(), timeout=HANDSHAKE_S)
        except Unavailable as error:
            if error.details.get("reason") == handshake.REASON:
                raise
        except ProxistError:
            pass  # it is as silent as before

    @property
    def left_s(self) -> float:
        return max(0.001, self._deadline_s - time.monotonic())

    def close(self) -> None:
        self._channel.close()


@contextmanager
def control_plane(address: str, timeout_s: float) -> Iterator[ControlPlane]:
    control = ControlPlane(address, timeout_s)
    try:
        yield control
    finally:
        control.close()


def node_row(node: pb.Node) -> Row:
    row = {name: getattr(node, name) for name in ("name", "role", "pid", "flight", "grpc", "http", "state")}
    return {**row, "insecure": True} if node.insecure else row


def watermark_row(mark: pb.Watermark, *, lag: bool = False) -> Row:
    """`t_persisted` in nanoseconds since 1970, None where nothing is known of it; `lag`: with the rows not persisted,
    and those of them that memory does not have."""
    row = {name: getattr(mark, name) for name in ("table", "shard", "epoch", "floor", "persisted", "end")}
    if lag:
        row |= {"lag": mark.end - mark.persisted, "warm": max(0, mark.floor - mark.persisted)}
    return {**_tenant(mark.tenant), **row, "t_persisted": mark.t_persisted if mark.HasField("t_persisted") else None}


def shard_row(shard: pb.Shard) -> Row:
    row = {name: getattr(shard, name) for name in ("table", "shard", "slot", "node", "epoch", "state")}
    return {**_tenant(shard.tenant), **row, **({"error": shard.error} if shard.error else {})}


def table_row(table: pb.Table) -> Row:
    """The spec as `create-table` takes it, with what the control plane decided."""
    spec = table.spec
    columns = [{"name": c.name, "type": c.type, **({"nullable": True} if c.nullable else {})} for c in spec.columns]
    flush = {"rows": spec.flush.rows, "bytes": spec.flush.bytes, "age": spec.flush.age}
    settings = {name: getattr(spec, name) for name in ("shards", "durability", "hot_window", "hot_bytes")}
    return {
        **_tenant(table.tenant),
        **{name: getattr(spec, name) for name in ("name", "time", "key", "seq")},
        "columns": columns,
        **settings,
        "flush": flush,
        "dedup": spec.dedup,
        "id": table.id,
        "shard_ids": list(table.shard_ids),
        "schema_version": table.schema_version,
        "state": table.state,
        "paused": table.paused,
    }


def _tenant(tenant: str) -> Row:
    """Shown only where there is more than the default one."""
    return {"tenant": tenant} if tenant not in ("", "default") else {}
