"""`dedup: seq`: rows whose seq is not above their key's last seq are dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxist.model.table import TableSpec

SEQS_SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("seq", pa.uint64(), nullable=False)])
EXPORT_KEYS = 65_536


class SeqDedup:
    """The highest seq that was accepted per key of one shard. Used by the shard's writer alone."""

    def __init__(self, spec: TableSpec) -> None:
        assert spec.seq is not None, "a spec with `dedup: seq` has a seq column"
        self._key, self._seq = spec.key, spec.seq
        self._last: dict[str, int] = {}

    def filter(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of `rows` whose seq is above every earlier one of their key, in this batch too. Changes nothing."""
        if not rows.num_rows:
            return rows
        keys, codes, seqs = self._columns(rows)
        keep = np.ones(rows.num_rows, dtype=bool)
        by_key = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[by_key], np.arange(len(keys) + 1))
        for code, key in enumerate(keys):
            at = by_key[starts[code] : starts[code + 1]]
            keep[at] = _rising(seqs[at], self._last.get(key))
        return rows if keep.all() else rows.take(pa.array(np.flatnonzero(keep)))

    def accept(self, rows: pa.RecordBatch) -> dict[str, int | None]:
        """`rows` were accepted: raise the last seq of their keys. Returns what these were before, for `restore`."""
        before: dict[str, int | None] = {}
        if not rows.num_rows:
            return before
        keys, codes, seqs = self._columns(rows)
        highest = np.zeros(len(keys), dtype=np.uint64)
        np.maximum.at(highest, codes, seqs)
        for key, seq in zip(keys, highest.tolist(), strict=True):
            if seq >= self._last.get(key, 0):
                before[key] = self._last.get(key)
                self._last[key] = seq
        return before

    def restore(self, before: dict[str, int | None]) -> None:
        """The batch that `accept` returned `before` for was not written after all; the newest batch first."""
        for key, seq in before.items():
            if seq is None:
                self._last.pop(key, None)
            else:
                self._last[key] = seq

    def instant(self) -> Mapping[str, int]:
        """What is known now: a copy, for `export_seqs`."""
        return dict(self._last)

    def load(self, seqs: pa.RecordBatch) -> None:
        """Take what `export_seqs` gave, before anything else is accepted."""
        self._last.update(zip(seqs.column(0).to_pylist(), seqs.column(1).to_pylist(), strict=True))

    def _columns(
        self, rows: pa.RecordBatch
    ) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int32]], np.ndarray[tuple[int], np.dtype[np.uint64]]]:
        encoded = pc.dictionary_encode(rows.column(self._key))
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), rows.column(self._seq).to_numpy()


def export_seqs(instant: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """The last seq of every key as batches of SEQS_SCHEMA."""
    keys, seqs = list(instant), list(instant.values())
    for at in range(0, len(keys), EXPORT_KEYS):
        columns = [keys[at : at + EXPORT_KEYS], seqs[at : at + EXPORT_KEYS]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SEQS_SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=SEQS_SCHEMA)


def _rising(
    seqs: np.ndarray[tuple[int], np.dtype[np.uint64]], last: int | None
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where `seqs` exceeds `last` and everything before it."""
    before = np.maximum.accumulate(seqs)
    keep = np.empty(len(seqs), dtype=bool)
    keep[0] = True
    keep[1:] = seqs[1:] > before[:-1]
    return keep if last is None else keep & (seqs > np.uint64(last))
