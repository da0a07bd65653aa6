"""Settings of an ingest service."""

from __future__ import annotations

from proxist.config import ServiceConfig

DEFAULTS = {"name": "ingest-0", "flight_port": 8816, "grpc_port": 7411, "http_port": 7412}
"""Where a service that was told nothing listens."""


class IngestConfig(ServiceConfig):
    """What every service has is all there is: bounds and windows belong to tables."""
