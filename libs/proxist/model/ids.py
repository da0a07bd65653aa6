"""The integers of the vocabulary (docs/architecture.md), each with a type of its own."""

from __future__ import annotations

from typing import NewType

TableId = NewType("TableId", int)
"""Never reused; from etcd."""
ShardId = NewType("ShardId", int)
"""Never reused; from etcd; below 2**40."""
Epoch = NewType("Epoch", int)
"""Fencing number of a shard's owner: 1, 2, …; below 2**24. Every start of an owner takes the next."""
Offset = NewType("Offset", int)
"""Position of a row in its shard: 0, 1, 2, … without holes, going on from log to log."""
LogId = NewType("LogId", int)
"""`shard * 2**24 + epoch`: the value of the `_log` column."""
TimeNs = NewType("TimeNs", int)
"""Nanoseconds since the Unix epoch, UTC."""

EPOCH_BITS = 24
TIME_MIN = TimeNs(-2_208_988_800 * 10**9)
"""1900-01-01T00:00:00Z, the first instant of ClickHouse's DateTime64(9)."""
TIME_MAX = TimeNs(2**63 - 1)
"""2262-04-11T23:47:16.854775807Z, the last instant of a 64-bit nanosecond count."""


def log_id(shard: ShardId, epoch: Epoch) -> LogId:
    """The log of `shard` under `epoch`."""
    return LogId((shard << EPOCH_BITS) | epoch)


def shard_of_log(log: LogId) -> ShardId:
    return ShardId(log >> EPOCH_BITS)


def epoch_of_log(log: LogId) -> Epoch:
    return Epoch(log & ((1 << EPOCH_BITS) - 1))
