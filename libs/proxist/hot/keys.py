"""Keys and their codes, as a reader needs them: remembered, since a code never changes under one epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from proxist.hot.arena import Views
from proxist.hot.dictionary import Dictionary, strings_from
from proxist.hot.incoming import strings_of
from proxist.hot.layout import Layout

Ints = npt.NDArray[np.int64]
_SETS_MAX = 256
_EACH_MAX, _EACH_KEYS_MAX = 4_096, 64
_NO_KEY = -2


class KeyIndex:
    """One reader's view of the key dictionary. Code arrays are read-only and sorted by key where said so."""

    def __init__(self, layout: Layout, views: Views) -> None:
        self._dictionary = Dictionary(views, layout.dictionary_layout(""))
        self._sets: dict[tuple[str, ...], Ints] = {}
        self._each: dict[tuple[str, ...], Ints] = {}
        self._sorted: tuple[int, Ints, pa.Array] = (0, _readonly(np.zeros(0, np.int64)), pa.array([], pa.string()))
        self._names: pa.Array = pa.array([], pa.string())

    @property
    def count(self) -> int:
        return self._dictionary.count

    def codes(self, keys: tuple[str, ...]) -> Ints:
        """The codes of the distinct known ones of `keys`, ascending by key."""
        if (known := self._sets.get(keys)) is not None:
            return known
        distinct = tuple(sorted(set(keys)))  # code point order is UTF-8 byte order
        codes, unknown = self._dictionary.encode(strings_from(distinct))
        codes = _readonly(codes[codes >= 0] if unknown else codes)
        if not unknown:
            if len(self._sets) >= _SETS_MAX:
                self._sets.clear()
            self._sets[keys] = codes
        return codes

    def sorted(self) -> tuple[Ints, pa.Array]:
        """(all codes, their keys), ascending by key."""
        count, codes, names = self._sorted
        now = self._dictionary.count
        if now != count:
            values = self._dictionary.values(now)
            order = pc.sort_indices(values)
            codes, names = _readonly(order.to_numpy().astype(np.int64)), values.take(order)
            self._sorted = now, codes, names
        return codes, names

    def all_codes(self) -> Ints:
        """All codes, in code order."""
        return _readonly(np.arange(self._dictionary.count))

    def probe_codes(self, keys: pa.Array | pa.ChunkedArray) -> Ints:
        """A code per probe: -1 unknown, -2 no key (null)."""
        if isinstance(keys, pa.ChunkedArray):
            keys = keys.combine_chunks()
        if keys.type != pa.string():
            keys = keys.cast(pa.string())
        strings = strings_of(keys)
        codes, _ = self._dictionary.encode(strings)
        if len(strings.valid):
            codes[strings.valid == 0] = _NO_KEY
        return _readonly(codes)

    def remembered(self, keys: tuple[str, ...]) -> Ints | None:
        """What `each` found for these keys before, where it knew them all."""
        return self._each.get(keys)

    def each(self, keys: tuple[str, ...] | pa.Array) -> tuple[Ints, bool]:
        """(a code per key, -1 where it is unknown; whether all are known and remembered)."""
        if not isinstance(keys, tuple):
            return self.probe_codes(keys), False
        codes = self.probe_codes(pa.array(keys, pa.string()))
        if len(keys) > _EACH_KEYS_MAX or not (codes >= 0).all():
            return codes, False
        if len(self._each) >= _EACH_MAX:
            self._each = {}
        self._each[keys] = codes
        return codes, True

    def names(self, codes: Ints) -> tuple[str, ...]:
        """The keys of these codes."""
        if not len(codes):
            return ()
        names = self._names
        if len(names) <= int(codes.max()):
            names = self._names = self._dictionary.values(self._dictionary.count)
        return tuple(names.take(pa.array(codes)).to_pylist())


def _readonly(codes: Ints) -> Ints:
    codes.flags.writeable = False
    return codes
