"""Which node gets which shard: rendezvous hashing with bounded load. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import xxhash

from proxist.model.ids import ShardId


def place(shards: Sequence[ShardId], nodes: Iterable[str], load: Mapping[str, int]) -> dict[ShardId, str]:
    """A node for each of one table's new `shards`; `load` is how many shards a node has already.

    No node gets more than its equal share of the table, rounded up, so that a table uses every node; and none goes
    above its equal share of all shards while another is below it. Within these bounds a shard goes to the node of its
    highest score, so where the same nodes are alive the choice is the same. Raises ValueError without nodes.
    """
    names = sorted(set(nodes))
    if not names:
        raise ValueError("no node to place shards on")
    counts = {name: load.get(name, 0) for name in names}
    own = dict.fromkeys(names, 0)
    share = _ceil_div(len(shards), len(names))
    total_share = _ceil_div(sum(counts.values()) + len(shards), len(names))
    placed: dict[ShardId, str] = {}
    for shard in shards:
        allowed = [name for name in names if own[name] < share]
        below = [name for name in allowed if counts[name] < total_share]
        chosen = max(below or allowed, key=lambda name: score(name, shard))
        placed[shard] = chosen
        own[chosen] += 1
        counts[chosen] += 1
    return placed


def score(node: str, shard: ShardId) -> int:
    """The rendezvous score: uniform, and independent from one pair to the next."""
    return xxhash.xxh3_64_intdigest(f"{node}/{shard}".encode())


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
