"""Proxist: a hot-path time-series proxy. Live ticks in shared memory, history in ClickHouse, one exact table."""

from __future__ import annotations

__version__ = "0.1.0"
