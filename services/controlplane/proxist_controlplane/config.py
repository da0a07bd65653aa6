"""Settings of the control plane, on top of what every service has."""

from __future__ import annotations

from pydantic import Field

from proxist.config import ServiceConfig

DEFAULTS = {"name": "controlplane-0", "grpc_port": 7441, "http_port": 7442}
"""Where a service that was told nothing listens."""


class ControlPlaneConfig(ServiceConfig):
    create_timeout_s: float = Field(default=15.0, gt=0, le=600)
    """How long creating a table waits for its shards; a call's own deadline may be shorter."""
    drop_timeout_s: float = Field(default=30.0, gt=0, le=600)
    """How long dropping waits; the drop itself goes on after it."""
    flush_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """How long a flush waits that names no time itself."""
    ask_timeout_s: float = Field(default=3.0, gt=0, le=60)
    """How long one question to one node may take."""
    replace_after_s: float = Field(default=3.0, ge=0, le=600)
    """A shard that was never opened moves to another node when its own has been gone for so long."""
