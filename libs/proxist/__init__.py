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
    from proxist.client import Ack, Answer, Connection, Sent, Session, SpooledWriter, Table, Writer, connect
    from proxist.client.opened import Opened
    from proxist.client.opened import open_directory as open
    from proxist.errors import ProxistError

__version__ = "0.1.0"
__all__ = [
    "Ack",
    "Answer",
    "Connection",
    "Opened",
    "ProxistError",
    "Sent",
    "Session",
    "SpooledWriter",
    "Table",
    "Writer",
    "connect",
    "open",
]
_ELSEWHERE = {
    "ProxistError": ("proxist.errors", "ProxistError"),
    "Opened": ("proxist.client.opened", "Opened"),
    "open": ("proxist.client.opened", "open_directory"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'proxist' has no attribute {name!r}")
    import importlib

    module, attribute = _ELSEWHERE.get(name, ("proxist.client", name))
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if module != "proxist.client.opened":
            raise
        from proxist.errors import ConfigError

        raise ConfigError(
            f'`proxist.{name}` needs {error.name}, which is not installed. Run: pip install "proxist[open]"'
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
