"""Settings of an ingest service."""

from __future__ import annotations

from pydantic import Field

from proxist.config import ServiceConfig
from proxist.wal import BALLAST_BYTES
from proxist_ingest.logtail import WAL_BYTES_MAX
from proxist_ingest.snapshotting import SNAPSHOT_BYTES

DEFAULTS = {"name": "ingest-0", "flight_port": 8816, "grpc_port": 7411, "http_port": 7412}
"""Where a service that was told nothing listens."""


class IngestConfig(ServiceConfig):
    """A node's bounds; those of memory, and windows, belong to tables."""

    wal_gib_max: float = Field(default=WAL_BYTES_MAX / 2**30, gt=0)
    """GiB of log that rows of one shard may take which ClickHouse does not have: past them, and with `hot_bytes` full,
    batches are refused with a retry hint until ClickHouse catches up. Keep the sum over the shards below the disk's size."""
    ballast_mib: int = Field(default=BALLAST_BYTES // 2**20, ge=0)
    """MiB that a file holds for the day the disk is full: it is given up then, so that marks and snapshots can still be
    written, and rows are refused with a retry hint until there is room for it again. 0: none."""
    snapshot_mib: int = Field(default=SNAPSHOT_BYTES // 2**20, ge=1)
    """MiB of log after which a shard takes a snapshot, in the background. Less: a shorter start. The log can be shortened
    up to the oldest of three."""
