"""Settings of a query service."""

from __future__ import annotations

from pydantic import Field

from proxist.config import ServiceConfig

DEFAULTS = {"name": "query-0", "flight_port": 8815, "grpc_port": 7421, "http_port": 7422}
"""Where a service that was told nothing listens."""


class QueryConfig(ServiceConfig):
    """A query node's bounds."""

    query_s_max: float = Field(default=300.0, gt=0, le=86_400)
    """Longest time of one query. Eviction trails what is persisted by more than that, so cuts stay readable."""
    slow_query_s: float = Field(default=1.0, ge=0, le=86_400)
    """A query that takes this long is logged with its plan and the rows of each tier; 0 logs every query."""
    engines_max: int = Field(default=4, ge=1, le=64)
    """SQL statements that run in this process' own ClickHouse engine at a time; more wait."""
