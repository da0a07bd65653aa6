"""The Python SDK. In: rows as Arrow, polars or pandas, and queries. Out: acks with tokens, answers with receipts.

A row is durable at the level that its ack names; see docs/sdk.md. `import proxist` loads this package only when one of
its names is used.
"""

from __future__ import annotations

import sys

if "grpc" not in sys.modules and "pyarrow._flight" not in sys.modules:
    # Halves the round trip of a Flight call, and works only before either library is loaded: then it is the user's
    # program that decides, and nothing is set here.
    import proxist.rpc.env  # noqa: F401 (sets the flags)

from proxist.client.acks import Ack
from proxist.client.answer import Answer
from proxist.client.connection import Connection, connect
from proxist.client.session import Session
from proxist.client.spooled import SpooledWriter
from proxist.client.table import Table
from proxist.client.writer import Sent, Writer

__all__ = ["Ack", "Answer", "Connection", "Sent", "Session", "SpooledWriter", "Table", "Writer", "connect"]
