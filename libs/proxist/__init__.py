"""Proxist: a hot-path time-series proxy. Live ticks in shared memory, history in ClickHouse, one exact table.

    import proxist

    with proxist.connect("grpc://127.0.0.1:8815") as connection:
        trades = connection.table("trades")
        trades.write(frame)
        print(trades.last_by(["spot:BTCUSDT"]).to_polars())

The SDK's names are loaded when they are first used, so that `import proxist` costs milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxist.client import Ack, Answer, Connection, Sent, Session, Table, Writer, connect
    from proxist.errors import ProxistError

__version__ = "0.1.0"
__all__ = ["Ack", "Answer", "Connection", "ProxistError", "Sent", "Session", "Table", "Writer", "connect"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'proxist' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module("proxist.errors" if name == "ProxistError" else "proxist.client"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
