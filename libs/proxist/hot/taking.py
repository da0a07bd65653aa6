"""Batches taken apart before their rows are placed: checked, their columns plain arrays, their keys looked up."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.hot import words as w
from proxist.hot.dictionary import Dictionary
from proxist.hot.incoming import Incoming, Take, cells_of, strings_of
from proxist.hot.store import ColumnStore
from proxist.model.table import TableSpec

_NO_SEQ: npt.NDArray[np.int64] = np.zeros(0, np.int64)
_NO_SEQ.flags.writeable = False


class Taking:
    """Takes the batches of one hot set apart. For any thread: of what readers see, only the key dictionary grows."""

    def __init__(self, spec: TableSpec, dictionary: Dictionary, stores: Sequence[ColumnStore]) -> None:
        self._spec, self._dictionary, self._stores = spec, dictionary, stores
        self._incoming = Incoming(spec)
        self._lock = threading.Lock()  # guards what follows, and additions to the dictionary
        self._prepared: dict[int, Take] = {}

    def prepare(self, batch: pa.RecordBatch) -> None:
        """`take` of this very batch will find it done. Raises SchemaMismatch, InvalidBatch."""
        with self._lock:
            self._prepared[id(batch)] = self._take(batch)

    def take(self, batch: pa.RecordBatch) -> Take:
        """The batch, its new keys in the dictionary where that has room. Raises SchemaMismatch, InvalidBatch."""
        with self._lock:
            return self._prepared.pop(id(batch), None) or self._take(batch)

    def _take(self, batch: pa.RecordBatch) -> Take:
        spec, arrays = self._spec, self._incoming.arrays(batch)
        keys = strings_of(arrays[spec.key])
        codes, unknown = self._dictionary.encode(keys)
        times = cells_of(arrays[spec.time], 8)
        seqs = cells_of(arrays[spec.seq], 8) if spec.seq else _NO_SEQ
        columns = [store.take(arrays[store.name]) for store in self._stores]
        if unknown and self._dictionary.room_for(unknown, keys.bytes):
            # Known from here on, rows or not: counted as unknown, each row of a new key would ask for a block of its own.
            self._dictionary.add_missing(keys, codes, w.INT64_MAX)
            unknown = 0
        return Take(batch, keys, codes, unknown, times, seqs, columns)
