"""Between the product's parts and a simulated cluster: its disks, its owners, small segments, turns in between."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import sim_cluster
from sim_cluster import Cluster, SimOwner, cluster
from sim_disk import SimDisk
from sim_threads import sim

import proxist_ingest.opening
import proxist_ingest.snapshotting
import proxist_persister.worker
from proxist.hot.chains import Chains
from proxist.hot.operators import Operators
from proxist.hot.outgoing import GatherPlan
from proxist.hot.payloads import PayloadRing
from proxist.hot.writer import HotSet
from proxist.wal import LogWriter, OsFiles, Volume
from proxist_ingest.recover import create_log

T = TypeVar("T")
SEGMENT_BYTES = 8192
BALLAST_BYTES = 4096
READING_CHANCE = 0.2
"""How often a reader is held up between two steps."""


def _disk() -> SimDisk:
    """The disk of the process that runs now, in the place of `OsFiles()`."""
    process = sim().current.process if sim().current is not None else None
    return next(n.disk for n in (*cluster().ingest.values(), *cluster().retired) if n.process is process)


WRITING = (
    (Chains, "place"),
    (Chains, "expose"),
    (Chains, "cover"),
    (Chains, "free"),
    (PayloadRing, "note"),
    (PayloadRing, "free_below"),
    (HotSet, "publish"),
)
"""Steps of a writer of shared memory: before each of them readers may get their turn, with some chance."""
READING = ((GatherPlan, "gather"), (Operators, "_part"))
"""Steps of a reader, between which its owner may go on, and even evict what is being read."""


def _interleaved(method: Callable[..., T], chance: float) -> Callable[..., T]:
    def interleaved(*args: Any, **kwargs: Any) -> T:
        if sim().current is not None and sim().random.random() < chance:
            sim().pause(0.2)
        return method(*args, **kwargs)

    return interleaved


@contextmanager
def wired(made: Cluster) -> Iterator[Cluster]:
    """The product's parts talk to this cluster, and begin segments that are small."""
    places = [
        m for name, m in sys.modules.items() if name.startswith(("proxist.wal.", "proxist.hot.", "proxist_ingest."))
    ]
    with contextlib.ExitStack() as stack:
        for module in places:
            if getattr(module, "OsFiles", None) is OsFiles and module.__name__ != OsFiles.__module__:
                stack.enter_context(patch.object(module, "OsFiles", _disk))
        small = {"segment_bytes": SEGMENT_BYTES, "ballast_bytes": BALLAST_BYTES}
        stack.enter_context(patch.object(proxist_ingest.snapshotting, "SEGMENT_BYTES", SEGMENT_BYTES))
        for make in (create_log, LogWriter.create.__func__, Volume.__init__):  # type: ignore[attr-defined]
            known = {name: value for name, value in small.items() if name in make.__kwdefaults__}
            stack.enter_context(patch.dict(make.__kwdefaults__, known))
        for steps, chance in ((WRITING, 0.05), (READING, READING_CHANCE)):
            for kind, method in steps:
                stack.enter_context(patch.object(kind, method, _interleaved(getattr(kind, method), chance)))
        stack.enter_context(patch.object(proxist_ingest.opening, "require_fsync", lambda *_: None))
        stack.enter_context(patch.object(proxist_persister.worker, "Owner", SimOwner))
        sim_cluster.running = made
        try:
            yield made
        finally:
            sim_cluster.running = None
            made.close()
