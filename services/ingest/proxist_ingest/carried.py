"""What a shard knows beside its rows: as recovery rebuilt it, and as a snapshot takes it at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxist.hot.snapshots import Cuts
from proxist.model.ids import Offset
from proxist.wal import LogMark
from proxist_ingest.bounds import Bounds
from proxist_ingest.producers import Instant, Producers
from proxist_ingest.seqdedup import SeqDedup

PRODUCERS_FILE = "producers.arrow"
SEQS_FILE = "seqs.arrow"


@dataclass(frozen=True, slots=True)
class Carried:
    """What a shard knows beside its rows, as recovery rebuilt it."""

    producers: Producers
    dedup: SeqDedup | None
    bounds: Bounds
    persisted: Offset


class Carry(NamedTuple):
    """The same at one instant between two groups of records, at `mark` of the log."""

    mark: LogMark
    producers: Instant
    seqs: Mapping[str, int] | None
    cuts: Cuts
