"""An operator's decision to go on without what a log lost: a file beside the log, `<epoch>.accepted`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c

from proxist.failpoints import reach
from proxist.model.ids import Offset
from proxist.wal.chain import accepted_path
from proxist.wal.files import Files, write_durably

FORMAT_VERSION = 1


class AcceptedLoss(NamedTuple):
    """The log is taken to end at `end`, before record number `records`, whatever it held behind. It covers a loss that
    begins there or later; more damage, before that place, is a new loss."""

    end: Offset
    records: int
    lost: tuple[tuple[Offset, Offset], ...]
    """The ranges `[first, end)` that the operator was shown."""
    accepted_ns: int
    """Wall clock, ns since 1970."""

    def covers(self, end: int, records: int) -> bool:
        return end >= self.end and records >= self.records


def write_decision(log_dir: Path, accepted: AcceptedLoss, files: Files) -> None:
    """On disk on return; one of before is replaced. Raises OSError."""
    fields: dict[str, Any] = {"format": FORMAT_VERSION, "epoch": log_dir.name, **accepted._asdict()}
    reach("wal.accept.before")
    write_durably(files, accepted_path(log_dir), _encode({**fields, "crc32c": _checksum(fields)}))
    reach("wal.accept.after")


def read_decision(log_dir: Path) -> AcceptedLoss | None:
    """The decision about the log; None where there is none, or its file is not sound: then it was not decided."""
    try:
        fields = json.loads(accepted_path(log_dir).read_bytes())
        stored = fields.pop("crc32c")
        if stored != _checksum(fields) or (fields["format"], fields["epoch"]) != (FORMAT_VERSION, log_dir.name):
            return None
        return AcceptedLoss(Offset(fields["end"]), fields["records"], _ranges(fields["lost"]), fields["accepted_ns"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _ranges(pairs: Sequence[Sequence[int]]) -> tuple[tuple[Offset, Offset], ...]:
    return tuple((Offset(first), Offset(end)) for first, end in pairs)


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def _checksum(fields: dict[str, Any]) -> int:
    return int(google_crc32c.value(_encode(fields)))
