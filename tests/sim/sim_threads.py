"""One thread that plays many: the product's threads as coroutines on a simulated clock, in an order that a seed chooses.

`sim_faces.installed(Sim(seed))` puts look-alikes in the place of `threading`, `time` and `random` of the product's modules, so the
product's own code runs, threads and all, and whatever would block hands over to the next runnable thread instead.
Nothing runs in parallel and nothing really waits; the same seed gives the same order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import greenlet

START_NS = 1_000_000_000_000
STEP_NS_MAX = 20_000
"""What a step between two blocking points takes at most, unless somebody says otherwise."""
LATE_NS_MAX = 100_000_000
"""By how much the threads of a process that stood still go on later than the first of them."""
PREEMPT = 0.05
"""How often a lock is not taken at once although it is free: another thread runs first."""


@dataclass(eq=False)
class Process:
    """Threads that live and die together."""

    name: str
    alive: bool = True
    frozen_until_ns: int = 0
    """It runs on at this instant: stopped by SIGSTOP, or its machine was suspended."""


@dataclass(eq=False)
class Sim:
    """The scheduler. `spawn` threads, then `step` from outside of them."""

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
        while not (runnable := [t for t in self.threads if t.ready and t.runs_from_ns <= self.now_ns]):
            waiting = [t for t in self.threads if t.ready or t.wake_ns is not None]
            self.now_ns = max(self.now_ns, min(t.runs_from_ns if t.ready else t.due_ns for t in waiting))
            for thread in waiting:
                if not thread.ready and thread.due_ns <= self.now_ns:
                    thread.ready = True
        thread = runnable[self.random.randrange(len(runnable))]
        self.now_ns += self.random.randrange(1, STEP_NS_MAX)
        self.steps += 1
        self._resume(thread)

    def _resume(self, thread: Thread) -> None:
        thread.ready, thread.wake_ns = False, None
        thread.glet.switch()
        if thread.glet.dead:
            self._forget(thread)

    def freeze(self, process: Process, seconds: float) -> None:
        """The process stands still; its threads then go on one after the other, in any order."""
        process.frozen_until_ns = self.now_ns + int(seconds * 1e9)
        for thread in self.threads:
            if thread.process is process:
                thread.runs_from_ns = process.frozen_until_ns + self.random.randrange(LATE_NS_MAX)

    def thaw(self, process: Process) -> None:
        """It goes on at once, whatever it was frozen for."""
        process.frozen_until_ns = 0
        for thread in self.threads:
            if thread.process is process:
                thread.runs_from_ns = 0

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


running: Sim | None = None
"""The simulation that is installed."""


def sim() -> Sim:
    assert running is not None, "no simulation runs"
    return running


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
        self.runs_from_ns = self.process.frozen_until_ns
        """It does not run before, ready or not."""
        self.joiners: list[Thread] = []
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self.glet = greenlet.greenlet(self._run)

    @property
    def due_ns(self) -> int:
        """When its wait is over, and it runs."""
        assert self.wake_ns is not None
        return max(self.wake_ns, self.runs_from_ns)

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
