"""What the product's modules see in the place of `threading`, `time`, `random` and futures while a simulation runs."""

from __future__ import annotations

import random
import sys
import threading as real_threading
import time as real_time
from collections.abc import Callable, Iterator
from concurrent.futures import Future as RealFuture
from concurrent.futures import wait as real_wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sim_threads
from sim_threads import Sim, Thread, sim

SIMULATED = ("proxist.etcd", "proxist.wal", "proxist.hot.pins", "proxist.hot.reader", "proxist_ingest")
SIMULATED += ("proxist_persister", "proxist_query.catalog")
"""Modules (and packages) whose threads, clock and chance are simulated."""
WALL_NS = 1_723_161_600_000_000_000


class Lock:
    def __init__(self) -> None:
        self._holder: object = None
        self._waiters: list[Thread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if sim().dying:
            return True
        if blocking:
            sim().maybe_yield()
        while self._holder is not None:
            if not blocking:
                return False
            waiter = sim().current
            assert waiter is not None, "a lock is held while the world stands still"
            self._waiters.append(waiter)
            sim().block()
        self._holder = sim().current or self
        return True

    def release(self) -> None:
        self._holder = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.ready = not waiter.done

    def locked(self) -> bool:
        return self._holder is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock()
        self._waiters: list[Thread] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        waiter = sim().current
        assert waiter is not None, "only a simulated thread can wait"
        self._waiters.append(waiter)
        self._lock.release()
        try:
            sim().block(timeout)
        finally:
            notified = waiter not in self._waiters
            if not notified:
                self._waiters.remove(waiter)
            self._lock.acquire()
        return notified

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        deadline_ns = None if timeout is None else sim().now_ns + int(timeout * 1e9)
        while not (result := predicate()):
            left_s = None if deadline_ns is None else (deadline_ns - sim().now_ns) / 1e9
            if left_s is not None and left_s <= 0:
                return result
            self.wait(left_s)
        return result

    def notify(self, n: int = 1) -> None:
        for waiter in self._waiters[:n]:
            waiter.ready = not waiter.done
        del self._waiters[:n]

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


class Event:
    def __init__(self) -> None:
        self._set = False
        self._changed = Condition()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._changed.notify_all()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        sim().check_alive()
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._set, timeout))


class Future:
    """Enough of `concurrent.futures.Future`."""

    def __init__(self) -> None:
        self._done = Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def __class_getitem__(cls, item: object) -> type[Future]:
        return cls

    def set_result(self, result: Any) -> None:
        self._result = result
        self._done.set()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    def done(self) -> bool:
        return self._done.is_set()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


@dataclass
class _Waited:
    done: list[Future]


def wait(futures: list[Future], timeout: float | None = None) -> _Waited:
    futures[0]._done.wait(timeout)
    return _Waited([one for one in futures if one.done()])


class _Threading:
    """The module's face."""

    Thread, Lock, RLock, Condition, Event = Thread, Lock, Lock, Condition, Event
    local = real_threading.local

    @staticmethod
    def current_thread() -> Thread | None:
        return sim().current

    @staticmethod
    def get_ident() -> int:
        current = sim().current
        return 0 if current is None else int(current.ident or 0)


class _Time:
    """The module's face: every clock is the simulated one; what only measures goes on measuring."""

    @staticmethod
    def monotonic_ns() -> int:
        return sim().now_ns

    @staticmethod
    def monotonic() -> float:
        return sim().now_ns / 1e9

    @staticmethod
    def time_ns() -> int:
        return WALL_NS + sim().now_ns

    @staticmethod
    def time() -> float:
        return (WALL_NS + sim().now_ns) / 1e9

    @staticmethod
    def sleep(seconds: float) -> None:
        sim().block(seconds)

    perf_counter = real_time.perf_counter
    perf_counter_ns = real_time.perf_counter_ns


class _Random:
    @staticmethod
    def random() -> float:
        return sim().random.random()


@contextmanager
def installed(simulation: Sim) -> Iterator[Sim]:
    """The product's modules live in `simulation` while this is open."""
    faces = {real_threading: _Threading, real_time: _Time, random: _Random, RealFuture: Future}
    changed: list[tuple[Any, str, Any]] = []
    for name, module in list(sys.modules.items()):
        if module is None or not name.startswith(SIMULATED):
            continue
        for attribute in ("threading", "time", "random", "Future", "wait"):
            value = getattr(module, attribute, None)
            face = wait if value is real_wait else faces.get(value) if value is not None and _hashable(value) else None
            if face is not None:
                changed.append((module, attribute, value))
                setattr(module, attribute, face)
    sim_threads.running = simulation
    try:
        with simulation:
            yield simulation
    finally:
        sim_threads.running = None
        for module, attribute, value in changed:
            setattr(module, attribute, value)


def _hashable(value: object) -> bool:
    return getattr(type(value), "__hash__", None) is not None
