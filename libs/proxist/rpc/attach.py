"""Descriptors over a unix socket (SCM_RIGHTS): how an owner hands its hot set, read-only, to readers of its host
(`proxist.rpc.attached`).

One request per connection, one packet each way (SOCK_SEQPACKET): the client sends `{"shard": 7}`, with its
`token` where the owner has auth; the owner answers
`{"info": {…}}` with the descriptor, or `{"error": {…}}` without one. Who may connect is decided by the mode of the
run directory (0700) and checked again here: the peer must have the owner's uid, or be root.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from proxist.auth.guard import Guard, open_guard
from proxist.errors import InvalidArgument, PermissionDenied
from proxist.rpc import ports
from proxist.rpc.status import outward, to_proxist

PACKET_BYTES_MAX = 1 << 16
CLIENT_SILENCE_S_MAX = 1.0
"""A client that connects and says nothing holds the door for this long at most."""

log = structlog.get_logger("proxist.rpc.attach")
Provider = Callable[[int], tuple[int, Mapping[str, Any]]]
"""shard -> (read-only descriptor, info). The door closes neither; raise NotOwner, NotFound … to refuse."""


class AttachDoor:
    """Answers on `path` (removed first, mode 0600) from its own thread; serving when constructed."""

    def __init__(self, path: Path, provider: Provider, guard: Guard | None = None) -> None:
        self._guard = guard or open_guard()
        ports.check_unix_path(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.path = path
        self._provider = provider
        self._stopping = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._run, name="attach", daemon=True)
        self._thread.start()

    def stop(self, grace_s: float) -> list[str]:
        """Close; names what is still running after `grace_s`. Descriptors already handed out stay valid."""
        self._stopping.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._thread.join(grace_s)
        self._socket.close()
        self.path.unlink(missing_ok=True)
        return ["an attach request"] if self._thread.is_alive() else []

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                if not self._stopping.is_set():
                    log.exception("the attach door is gone")
                return
            with client:
                try:
                    client.settimeout(CLIENT_SILENCE_S_MAX)
                    self._answer(client)
                except OSError as error:
                    log.info("an attach client went away", error=str(error))

    def _answer(self, client: socket.socket) -> None:
        try:
            _check_peer(client)
            shard, token = _read_request(client)
            self._guard.admit("attach", token)
            descriptor, info = self._provider(shard)
        except OSError:
            raise
        except Exception as error:
            client.send(json.dumps({"error": outward(to_proxist(error))}, default=str).encode())
            return
        socket.send_fds(client, [json.dumps({"info": dict(info)}).encode()], [descriptor])


def _read_request(client: socket.socket) -> tuple[int, str | None]:
    packet = client.recv(PACKET_BYTES_MAX)
    try:
        request = json.loads(packet)
        shard, token = request["shard"], request.get("token")
    except (ValueError, KeyError, TypeError, AttributeError):
        shard, token = None, None
    if not isinstance(shard, int):
        raise InvalidArgument('An attach request must be {"shard": <integer>}, with "token" where the owner has auth.')
    return shard, token if isinstance(token, str) else None


def _check_peer(client: socket.socket) -> None:
    packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    if uid not in (os.getuid(), 0):
        raise PermissionDenied(
            f"User {uid} may not attach to memory of user {os.getuid()}. Run the reader as that user, or use Flight.",
            uid=uid,
        )
