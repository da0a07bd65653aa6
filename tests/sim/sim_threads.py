"""One thread that plays many: the product's threads as coroutines on a simulated clock, in an order that a seed chooses.

`installed(Sim(seed))` puts look-alikes in the place of `threading`, `time` and `random` of the product's modules, so the
product's own code runs, threads and all, and whatever would block hands over to the next runnable thread instead.
Nothing runs in parallel and nothing really waits; the same seed gives the same order.
"""

from __future__ import annotations

import hashlib
import random
import sys
import threading as real_threading
import time as real_time
from collections.abc import Callable, Iterator
from concurrent.futures import Future as RealFuture
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import greenlet

SIMULATED = ("proxist.etcd", "proxist.wal", "proxist.hot.pins", "proxist.hot.reader", "proxist_ingest")
SIMULATED += ("proxist_persister", "proxist_query.catalog")
"""Modules (and packages) whose threads, clock and chance are simulated."""
START_NS = 1_000_000_000_000
WALL_NS = 1_723_161_600_000_000_000
STEP_NS_MAX = 20_000
"""What a step between two blocking points takes at most, unless somebody says otherwise."""
PREEMPT = 0.05
"""How often a lock is not taken at once although it is free: another thread runs first."""


@dataclass(eq=False)
class Process:
    """Threads that live and die together."""

    name: str
    alive: bool = True
    frozen_until_ns: int = 0
    """It runs on at this instant: stopped by SIGSTOP, or its machine was suspended."""
    clock_ns: int = 0


@dataclass(eq=False)
class Sim:
    """The scheduler. `spawn` threads, then `step` (or `run_until`) from outside of them."""

    seed: int
    random: random.Random = field(init=False)
    now_ns: int = START_NS
    threads: list[Thread] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    steps: int = 0
    failures: list[str] = field(default_factory=list)
    """Exceptions that ended a thread of the product: a bug in itself."""
    root: str = "\0"
    """Directory of the run's files."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.outside = Process("outside")
        self._of: dict[Any, Thread] = {}
        self._ended: list[Thread] = []

    # ---- from outside ----------------------------------------------------------------------------------------------

    def spawn(self, process: Process, target: Callable[[], Any], name: str) -> Thread:
        thread = Thread(target=target, name=name, process=process)
        thread.start()
        return thread

    def step(self) -> None:
        """Let one runnable thread go on to where it blocks next; where none can, time passes until one can."""
        runnable = [t for t in self.threads if t.ready and self.now_ns >= t.process.frozen_until_ns]
        while not runnable:
            self.now_ns = max(self.now_ns, min(self._next_ns(t) for t in self.threads))
            for thread in self.threads:
                if thread.wake_ns is not None and thread.wake_ns <= self.now_ns:
                    thread.ready = True
            runnable = [t for t in self.threads if t.ready and self.now_ns >= t.process.frozen_until_ns]
        thread = runnable[self.random.randrange(len(runnable))]
        self.now_ns += self.random.randrange(1, STEP_NS_MAX)
        self.steps += 1
        self._resume(thread)

    def _next_ns(self, thread: Thread) -> int:
        due = self.now_ns if thread.ready else thread.wake_ns
        return 2**62 if due is None else max(due, thread.process.frozen_until_ns)

    def _resume(self, thread: Thread) -> None:
        thread.ready, thread.wake_ns = False, None
        thread.glet.switch()
        if thread.glet.dead:
            self._forget(thread)

    def kill(self, process: Process) -> None:
        """End every thread of the process where it stands, as a kill -9 does."""
        process.alive = False
        for thread in [t for t in self.threads if t.process is process]:
            if thread.glet:
                thread.glet.throw(greenlet.GreenletExit)
            self._forget(thread)

    def _forget(self, thread: Thread) -> None:
        thread.done = True
        if thread in self.threads:
            self.threads.remove(thread)
        self._of.pop(thread.glet, None)
        for waiter in thread.joiners:
            waiter.ready = True

    def say(self, what: str) -> None:
        """A line of the trace; where its files lie is not the same in every run."""
        self.trace.append(f"{(self.now_ns - START_NS) / 1e9:10.6f} {what.replace(self.root, '')}")

    @property
    def trace_hash(self) -> str:
        return hashlib.sha256("\n".join([*self.trace, f"{self.steps} steps, {self.now_ns}"]).encode()).hexdigest()[:16]

    # ---- from inside of a thread -----------------------------------------------------------------------------------

    @property
    def current(self) -> Thread | None:
        return self._of.get(greenlet.getcurrent())

    def block(self, timeout_s: float | None = None) -> None:
        """Give the others their turn until somebody sets `ready`, or until the time is over."""
        thread = self.current
        assert thread is not None, "only a simulated thread can wait"
        self.check_alive()
        thread.wake_ns = None if timeout_s is None else self.now_ns + max(0, int(timeout_s * 1e9))
        thread.ready = False
        thread.glet.parent = self._hub
        self._hub.switch()
        self.check_alive()

    def yield_(self) -> None:
        """Others may run before the caller goes on."""
        thread = self.current
        if thread is not None and thread.process.alive:
            self.block(0.0)

    def maybe_yield(self, chance: float = PREEMPT) -> None:
        if self.current is not None and self.random.random() < chance:
            self.yield_()

    def pause(self, seconds_max: float) -> None:
        """A call that takes its time."""
        if self.current is not None:
            self.block(self.random.random() * seconds_max)

    def check_alive(self) -> None:
        """A killed process does nothing more, whatever its code still tries on the way out."""
        thread = self.current
        if thread is not None and not thread.process.alive:
            raise greenlet.GreenletExit

    @property
    def dying(self) -> bool:
        thread = self.current
        return thread is not None and not thread.process.alive

    def __enter__(self) -> Sim:
        self._hub = greenlet.getcurrent()
        return self

    def __exit__(self, *_: object) -> None:
        for process in {id(t.process): t.process for t in self.threads}.values():
            self.kill(process)


_sim: Sim | None = None


def sim() -> Sim:
    assert _sim is not None, "no simulation runs"
    return _sim


# ---- what the product sees in the place of `threading` ------------------------------------------------------------


class Thread:
    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        process: Process | None = None,
    ) -> None:
        current = sim().current
        self.process = process or (current.process if current else sim().outside)
        self.name = name or "thread"
        self.ident: int | None = None
        self.daemon = daemon
        self.ready, self.done = False, False
        self.wake_ns: int | None = None
        self.joiners: list[Thread] = []
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self.glet = greenlet.greenlet(self._run)

    def start(self) -> None:
        self.ident = len(sim().threads) + 1
        self.glet.parent = sim()._hub
        sim().threads.append(self)
        sim()._of[self.glet] = self
        self.ready = True

    def _run(self) -> None:
        try:
            assert self._target is not None
            self._target(*self._args, **self._kwargs)
        except greenlet.GreenletExit:
            pass
        except BaseException as error:
            sim().failures.append(f"{self.process.name}/{self.name}: {type(error).__name__}: {error}")
            sim().say(f"thread {self.name} of {self.process.name} died: {type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                raise

    def join(self, timeout: float | None = None) -> None:
        deadline_ns = None if timeout is None else sim().now_ns + int(timeout * 1e9)
        while not self.done and self.ident is not None:
            left_s = None if deadline_ns is None else (deadline_ns - sim().now_ns) / 1e9
            if left_s is not None and left_s <= 0:
                return
            waiter = sim().current
            assert waiter is not None
            self.joiners.append(waiter)
            sim().block(left_s)

    def is_alive(self) -> bool:
        return self.ident is not None and not self.done


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
    global _sim
    faces = {real_threading: _Threading, real_time: _Time, random: _Random, RealFuture: Future}
    from concurrent.futures import wait as real_wait

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
    _sim = simulation
    try:
        with simulation:
            yield simulation
    finally:
        _sim = None
        for module, attribute, value in changed:
            setattr(module, attribute, value)


def _hashable(value: object) -> bool:
    return getattr(type(value), "__hash__", None) is not None
