"""Settings of a persister, on top of what every service has."""

from __future__ import annotations

from pydantic import Field

from proxist.config import ServiceConfig

DEFAULTS = {"name": "persister-0", "grpc_port": 7431, "http_port": 7432}
"""Where a service that was told nothing listens."""


class PersisterConfig(ServiceConfig):
    watermark_period_s: float = Field(default=0.25, gt=0, le=60)
    """Persisted marks go to etcd at most this often, all shards in one transaction."""
    insert_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Silence of ClickHouse after which an insert's outcome counts as unknown and is read back."""
    pause_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """How long a pause waits for the insert in flight where the caller sets no deadline."""
