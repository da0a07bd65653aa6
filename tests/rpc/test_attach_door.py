"""Descriptors over a unix socket: handed out read-only, refused with the provider's error, never a stuck door."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxist import errors
from proxist.rpc import attach
from proxist.rpc.attach import AttachDoor
from proxist.rpc.attached import request_fd

T = 10.0


class Owner:
    """Shard 1 has memory, shard 2 belongs to somebody else, shard 3 meets a bug."""

    def __init__(self) -> None:
        writable = os.memfd_create("hot")
        os.write(writable, b"the hot set")
        os.fchmod(writable, 0o600)
        self.readonly = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY)
        os.close(writable)

    def provide(self, shard: int) -> tuple[int, dict[str, Any]]:
        if shard == 2:
            raise errors.NotOwner("Shard 2 is owned by ingest-1.", shard=2)
        if shard == 3:
            raise KeyError("secret")
        return self.readonly, {"epoch": 7}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[AttachDoor]:
    owner = Owner()
    door = AttachDoor(tmp_path / "run" / "ingest-0.attach", owner.provide)
    yield door
    assert door.stop(T) == []
    os.close(owner.readonly)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_reader_gets_the_memory_and_cannot_write_it(door: AttachDoor) -> None:
    descriptor, info = request_fd(door.path, 1)
    try:
        assert info == {"epoch": 7}
        assert os.pread(descriptor, 100, 0) == b"the hot set"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_no_descriptor_leaks_on_either_side(door: AttachDoor) -> None:
    os.close(request_fd(door.path, 1)[0])
    before = open_descriptors()
    for _ in range(20):
        os.close(request_fd(door.path, 1)[0])
        with pytest.raises(errors.NotOwner):
            request_fd(door.path, 2)
    assert open_descriptors() <= before + 1  # the door may still be closing its last connection


def test_a_refusal_keeps_its_class_and_details(door: AttachDoor) -> None:
    with pytest.raises(errors.NotOwner, match="Shard 2 is owned by ingest-1") as raised:
        request_fd(door.path, 2)
    assert raised.value.details == {"shard": 2}


def test_a_bug_shows_an_id_only(door: AttachDoor) -> None:
    with pytest.raises(errors.InternalError) as raised:
        request_fd(door.path, 3)
    assert "secret" not in str(raised.value.to_json())


def test_no_owner_is_unavailable_and_shows_no_path(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="Shard 1 cannot be attached") as raised:
        request_fd(tmp_path / "nobody.attach", 1)
    assert str(tmp_path) not in raised.value.message


def test_only_the_owners_user_may_enter(door: AttachDoor) -> None:
    assert stat.S_IMODE(door.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(door.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("packet", [b"nonsense", b"{}", b'{"shard": "1"}', b"[]"])
def test_a_malformed_request_is_answered_and_the_next_one_served(door: AttachDoor, packet: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(T)
        client.connect(str(door.path))
        client.send(packet)
        assert b"INVALID_ARGUMENT" in client.recv(4096)
    os.close(request_fd(door.path, 1)[0])


def test_a_silent_client_holds_the_door_for_a_bounded_time_only(
    door: AttachDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "CLIENT_SILENCE_S_MAX", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(door.path))
        os.close(request_fd(door.path, 1, timeout_s=T)[0])


def test_a_door_that_was_left_behind_is_taken_over(tmp_path: Path) -> None:
    """kill -9 leaves the socket's file; the next owner, who holds the directory lock, replaces it."""
    path = tmp_path / "ingest-0.attach"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(path))
    left.close()
    owner = Owner()
    door = AttachDoor(path, owner.provide)
    os.close(request_fd(path, 1)[0])
    assert door.stop(T) == []
    assert not path.exists()
    os.close(owner.readonly)
