"""What every program's page has: its build, its lease, its view of etcd."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import proxist
from proxist.telemetry import metrics as m
from proxist.telemetry.figures import Histogram, Scrape, Source


class _Lease(Protocol):
    valid_until_ns: int

    @property
    def lost(self) -> bool: ...


class _Session(Protocol):
    gain_count: int
    loss_count: int

    @property
    def lease(self) -> _Lease | None: ...


class _Mirror(Protocol):
    resync_count: int

    @property
    def synced(self) -> bool: ...


class _Client(Protocol):
    call_seconds: Histogram
    failure_count: int


def node_figures(
    role: str,
    name: str,
    *,
    insecure: bool,
    client: _Client,
    mirror: _Mirror,
    session: Callable[[], _Session | None],
) -> Source:
    """The source of every node's own figures. `session` gives None before the node has joined the cluster."""

    def add(scrape: Scrape) -> None:
        scrape.add(m.BUILD_INFO, 1, getattr(proxist, "__version__", ""), role, name)
        scrape.add(m.INSECURE, insecure)
        scrape.add(m.ETCD_SYNCED, mirror.synced)
        scrape.add(m.ETCD_RESYNCS, mirror.resync_count)
        scrape.histogram(m.ETCD_SECONDS, client.call_seconds)
        scrape.add(m.ETCD_FAILURES, client.failure_count)
        joined = session()
        lease = None if joined is None else joined.lease
        held = lease is not None and not lease.lost
        left_ns = lease.valid_until_ns - time.monotonic_ns() if lease is not None and held else 0
        scrape.add(m.LEASE_HELD, held)
        scrape.add(m.LEASE_REMAINING, max(0, left_ns) / 1e9)
        scrape.add(m.LEASE_GAINS, 0 if joined is None else joined.gain_count)
        scrape.add(m.LEASE_LOSSES, 0 if joined is None else joined.loss_count)

    return add
