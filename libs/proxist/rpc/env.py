"""Flags that must be set before pyarrow or grpc is loaded: `import proxist.rpc.env` is each program's first line.

gRPC's event engine doubles the round trip of a Flight call (null DoExchange 140-150 µs with it, 75 µs without, on the
reference machine; over TLS 210 and 91), so our programs switch it off. A value that the user set is left alone.
"""

from __future__ import annotations

import os
import sys

GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"
BACKUP_POLL_MS = 100
"""Without the event engine nobody drives a channel's connection attempts while no call is open, except a poll every
5 s: a peer that came back was found after 10 s (measured against a restarted etcd), or never where an attempt times out
sooner. At 100 ms it is found at once, for 3 ms of CPU per second."""


def apply() -> bool:
    """Set the flags; True where they take effect, which is before either library is loaded."""
    if "pyarrow.flight" in sys.modules or "grpc" in sys.modules:
        return False
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", str(BACKUP_POLL_MS))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines on stderr repeat what our errors say
    return True


apply()
