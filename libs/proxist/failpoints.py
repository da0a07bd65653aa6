"""Named points before and after every durable step, at which a test can kill, stop, fail or slow the process.

    reach("wal.sync.before")                                     # in the code: one check of a global while nothing is armed

    PROXIST_FAILPOINTS="wal.sync.before=kill@3;wal.append.before=error:ENOSPC@2"     # in a service's environment

    with failpoints.armed("commit.publish.before=pause") as points:                  # in a test
        …
        points.wait_reached("commit.publish.before", 10.0)
        points.release("commit.publish.before")

Actions: `kill` (SIGKILL of this process), `exit` (it ends at once with code 77), `stop` (SIGSTOP of this process until
somebody sends SIGCONT), `pause` (the thread waits for `release`, for PAUSE_S_MAX at most; only inside a test's own
process), `delay:<ms>`, `error:<ERRNO>` (OSError with that number). `@n`: only the n-th time the point is reached;
`@n+`: from the n-th time on; without it, every time.

This module imports nothing of Proxist, so every layer may use it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

ENVIRONMENT = "PROXIST_FAILPOINTS"
EXIT_CODE = 77
PAUSE_S_MAX = 60.0

POINTS: dict[str, str] = {
    "wal.append.before": "A group of records is planned and nothing of it is written.",
    "wal.append.after": "A group of records is written to the log's file; it is not flushed.",
    "wal.segment.before": "A segment's file is about to be created.",
    "wal.segment.after": "A segment's file is there, without its header; its directory entry is not flushed.",
    "wal.sync.before": "Records are about to be flushed.",
    "wal.sync.directory": "The records are flushed, the directory entry of their new segment is not.",
    "wal.sync.after": "The records are on disk; nobody has been told.",
    "wal.seal.before": "A log is about to be sealed.",
    "wal.seal.after": "The seal of a log is on disk; etcd does not know.",
    "wal.rename.before": "A new log is complete under its unfinished name.",
    "wal.rename.after": "A new log has its name; its directory entry is not flushed.",
    "wal.remove.before": "A segment, or a whole log, is not needed any more and still there.",
    "wal.remove.after": "A segment, or a whole log, is gone on disk; it may be a spare.",
    "wal.accept.before": "An operator accepted what a log lost; the decision is not on disk.",
    "wal.accept.after": "An operator's decision about a damaged log is on disk; no recovery has seen it.",
    "volume.ballast.before": "The disk is full and the ballast is still there.",
    "volume.ballast.after": "The ballast is given up; rows are refused.",
    "commit.publish.before": "A group's rows are as durable as asked, and no reader sees them.",
    "commit.publish.after": "A group's rows are visible; no sender has its ack.",
    "commit.answer.after": "The senders of a group have their acks.",
    "commit.persisted.before": "The owner was told a new persisted mark and has not logged it.",
    "commit.persisted.logged": "The new persisted mark is in the log; memory has the old one.",
    "commit.persisted.after": "The new persisted mark is in force.",
    "snapshot.write.before": "A snapshot's directory is there under its unfinished name; nothing is in it.",
    "snapshot.rename.before": "A snapshot is complete and flushed under its unfinished name.",
    "snapshot.rename.after": "A snapshot has its name; its directory entry is not flushed.",
    "snapshot.good": "A snapshot is on disk and was read back; older ones and the log are as before.",
    "snapshot.drop.before": "A snapshot that is not needed any more is about to be removed.",
    "snapshot.drop.after": "The snapshots that are not needed any more are gone.",
    "truncate.before": "Three good snapshots cover the beginning of the log, which is about to be removed.",
    "truncate.after": "The beginning of the log that snapshots cover is gone.",
    "etcd.open.before": "A shard's new log is on disk; the transaction that opens it is not sent.",
    "etcd.open.after": "etcd names the shard's new owner, who does not serve yet.",
    "etcd.seal.before": "A log is sealed on disk; the transaction that says so is not sent.",
    "etcd.seal.after": "etcd has the sealed end; nobody owns the shard.",
    "etcd.watermarks.before": "Persisted marks are about to be written to etcd.",
    "etcd.watermarks.after": "etcd has the persisted marks.",
    "persister.insert.before": "A part of a batch is about to be sent to ClickHouse.",
    "persister.insert.after": "ClickHouse has answered an insert; the persisted mark is the old one.",
    "persister.verify.before": "ClickHouse has confirmed what was missing of a batch; nobody has looked.",
    "persister.verify.after": "A batch was read back; it is not compared yet.",
    "persister.advance.before": "A read has found a batch in ClickHouse as it was sent; its owner does not know.",
    "persister.advance.after": "The owner knows that a batch is in ClickHouse; etcd's mark is the old one.",
}
"""Every point: its name, and what is true there."""

_SPEC = re.compile(
    r"(?P<action>kill|exit|stop|pause|delay:(?P<ms>\d+)|error:(?P<errno>E[A-Z0-9]+))(@(?P<at>[1-9]\d*)(?P<on>\+)?)?"
)


def reach(name: str) -> None:
    """Say that the point `name` is reached; what is armed there happens. A name that is not in POINTS is an error as
    soon as anything is armed."""
    if _active is not None:
        _active.reach(name)


@dataclass
class _Armed:
    action: str
    at: int
    onward: bool
    ms: int
    number: int
    reached: int = 0
    released: threading.Event = field(default_factory=threading.Event)


class Failpoints:
    """Points with what happens there. For any thread."""

    def __init__(self, spec: str) -> None:
        """Parse `point=action[@n];…`. Raises ValueError that says what may stand there."""
        self._armed = dict(_parse(part) for part in spec.split(";") if part.strip())
        self._moved = threading.Condition()  # guards every count

    @property
    def names(self) -> list[str]:
        return list(self._armed)

    @property
    def pauses(self) -> bool:
        """Whether some point waits for a `release`, which only this process can give."""
        return any(armed.action == "pause" for armed in self._armed.values())

    def reach(self, name: str) -> None:
        if name not in POINTS:
            raise KeyError(f"failpoint {name!r} is not in proxist.failpoints.POINTS: add it there with a sentence")
        armed = self._armed.get(name)
        if armed is None:
            return
        with self._moved:
            armed.reached += 1
            count = armed.reached
            self._moved.notify_all()
        if count == armed.at or (armed.onward and count > armed.at):
            _act(name, armed)

    def reached(self, name: str) -> int:
        """How often the armed point was reached."""
        with self._moved:
            return self._armed[name].reached

    def wait_reached(self, name: str, timeout_s: float, times: int = 1) -> None:
        """Wait until the armed point was reached that often. Raises TimeoutError."""
        with self._moved:
            if not self._moved.wait_for(lambda: self._armed[name].reached >= times, timeout_s):
                raise TimeoutError(
                    f"failpoint {name!r} was reached {self._armed[name].reached} times within {timeout_s:g} s, not {times}"
                )

    def release(self, name: str) -> None:
        """Let whoever waits at a `pause`, and whoever comes later, go on."""
        self._armed[name].released.set()

    def _release_all(self) -> None:
        for name in self._armed:
            self.release(name)


_active: Failpoints | None = None


def arm_from_environment() -> list[str]:
    """Arm what the environment's PROXIST_FAILPOINTS says; the points' names, none where it is not set.

    Raises ValueError where it cannot be read, or has a `pause`, which nobody could end.
    """
    global _active
    spec = os.environ.get(ENVIRONMENT, "")
    if not spec.strip():
        return []
    points = Failpoints(spec)
    if points.pauses:
        raise ValueError(
            f"{ENVIRONMENT} has a `pause`, which only a test's own process can end. Use `stop` and SIGCONT."
        )
    _active = points
    return points.names


@contextmanager
def armed(spec: str) -> Iterator[Failpoints]:
    """Arm points in this process; on leaving, nothing is armed and every pause is over. One at a time."""
    global _active
    assert _active is None, f"failpoints {_active.names} are armed already"
    points = Failpoints(spec)
    _active = points
    try:
        yield points
    finally:
        _active = None
        points._release_all()


def _parse(part: str) -> tuple[str, _Armed]:
    name, equals, said = part.strip().partition("=")
    if not equals or name not in POINTS:
        raise ValueError(
            f"failpoint {part.strip()!r}: {name!r} is none of the points. They are listed in proxist.failpoints.POINTS."
        )
    found = _SPEC.fullmatch(said)
    number = getattr(errno, found["errno"], None) if found and found["errno"] else 0
    if found is None or number is None:
        raise ValueError(
            f"failpoint {part.strip()!r}: write kill, exit, stop, pause, delay:<ms> or error:<ERRNO>, then @n or @n+ or nothing."
        )
    onward = found["at"] is None or found["on"] is not None
    return name, _Armed(found["action"].partition(":")[0], int(found["at"] or 1), onward, int(found["ms"] or 0), number)


def _act(name: str, armed: _Armed) -> None:
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif armed.action == "exit":
        os._exit(EXIT_CODE)
    elif armed.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif armed.action == "pause":
        if not armed.released.wait(PAUSE_S_MAX):
            raise TimeoutError(f"failpoint {name!r} was not released within {PAUSE_S_MAX:g} s")
    elif armed.action == "delay":
        time.sleep(armed.ms / 1000)
    else:
        raise OSError(armed.number, f"{os.strerror(armed.number)} (failpoint {name})")
