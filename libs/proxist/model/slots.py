"""The slot of a key: which of a table's shards has its rows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

_REMEMBERED_MAX = 1 << 18
"""Keys per number of slots; a table with more is hashed anew from time to time."""


def key_slot(key: str, slots: int) -> int:
    """`xxh3_64(utf8(key)) mod slots`: part of the public surface, since SDKs route by it."""
    return 0 if slots == 1 else xxhash.xxh3_64_intdigest(key.encode()) % slots


def slots_of(keys: pa.Array, slots: int) -> npt.NDArray[np.int64]:
    """`key_slot` of each of `keys`, plain or dictionary-encoded strings; 0 where a key is null."""
    if slots == 1:
        return np.zeros(len(keys), np.int64)
    encoded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
    distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
    of_key = np.zeros(len(distinct) + 1, np.int64)
    of_key[:-1] = np.fromiter(map(_remembered(slots).__getitem__, distinct), np.int64, len(distinct))
    at = encoded.indices.cast(pa.int64()).fill_null(len(distinct))
    return of_key[at.to_numpy()]


class _Remembered(dict[str | None, int]):
    """key -> slot, for keys that came before: a look-up costs less than a hash from Python."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self._slots = slots

    def __missing__(self, key: str | None) -> int:
        if len(self) >= _REMEMBERED_MAX:
            self.clear()
        slot = self[key] = 0 if key is None else key_slot(key, self._slots)
        return slot


_remembered = lru_cache(maxsize=16)(_Remembered)
