"""Prepared reads: which keys and which columns is settled once, a read is then one kernel call into arrays.

For callers that count microseconds: no Arrow, no names, no allocation. Columns have a fixed width; `found` says which
rows there are, `valid` where a nullable column has a value, and cells without one are zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.kernels import asof as searching
from proxist.hot.kernels import prepared as kernels
from proxist.hot.kernels_descend import PLACES
from proxist.hot.kernels_gather import F_BASE, F_OUT, F_WIDTH, F_WORDS
from proxist.hot.keys import KeyIndex
from proxist.hot.layout import Layout
from proxist.hot.ops import DIRECTIONS
from proxist.model.ids import Offset
from proxist.model.table import TableSpec
from proxist.model.types import numpy_type

Ints = npt.NDArray[np.int64]
_ALIGN = 64
_DIRECTIONS = dict(zip(DIRECTIONS, (searching.BACKWARD, searching.FORWARD, searching.NEAREST), strict=True))


def _dtype_of(spec: TableSpec, name: str) -> np.dtype[Any]:
    type_ = spec.column(name).type
    dtype = numpy_type(type_)
    if dtype is None:
        raise InvalidArgument(
            f"Column {name!r} is {type_}, which a prepared read cannot write into a numpy array. Leave it out, or use the "
            "verb that is not prepared."
        )
    return dtype


class Told(NamedTuple):
    """What a read was made of: rows with offset in [seam, end), and boundary rows."""

    end: Offset
    seam: Offset
    persisted: Offset


@dataclass(frozen=True, slots=True)
class Shape:
    """How an output is laid out; it holds no memory of the hot set."""

    count: int
    columns: tuple[tuple[str, np.dtype[Any]], ...]
    nullable: tuple[str, ...]
    starts: tuple[int, ...]
    """First byte of each column, then of each nullable one's validity."""

    has_flags: bool
    """Whether a column is boolean: a byte per cell here, a bit in Arrow."""

    @staticmethod
    def of(spec: TableSpec, columns: tuple[str, ...], plan: Ints, count: int) -> Shape:
        typed = tuple((name, _dtype_of(spec, name)) for name in columns)
        nullable = tuple(name for name in columns if spec.column(name).nullable)
        has_flags = any(dtype == np.bool_ for _, dtype in typed)
        return Shape(count, typed, nullable, tuple(plan[F_OUT::F_WORDS].tolist()), has_flags)

    def views(self, out: Ints) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[np.bool_]]]:
        """(arrays, valid) on an output, or on a copy of one."""
        cells, first = out.view(np.uint8), len(self.columns)

        def column(c: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
            return cells[self.starts[c] : self.starts[c] + self.count * dtype.itemsize].view(dtype)

        arrays = {name: column(c, dtype) for c, (name, dtype) in enumerate(self.columns)}
        return arrays, {name: column(first + c, np.dtype(np.bool_)) for c, name in enumerate(self.nullable)}


class LastRows(NamedTuple):
    """What one read found: `shape.views(cells)` are its arrays, `slots` -1 where there is no row; a copy."""

    shape: Shape
    cells: Ints
    slots: Ints
    told: Told
    undecided: int
    """Rows that RAM alone could not decide."""


class Prepared(ABC):
    """What both kinds have in common: codes, output, and where the answer stood."""

    def __init__(
        self,
        layout: Layout,
        views: Views,
        L: Ints,
        keys: KeyIndex,
        page: Ints,
        names: tuple[str, ...],
        columns: tuple[str, ...],
    ) -> None:
        """Use `HotReader.prepare_last_by` or `prepare_asof`. `names[i]` is row i's key."""
        self._index = keys
        self._memory = (views.mem8, views.mem16, views.mem32, views.mem, L)
        self._page, self._plan, out = page, *_plan(layout, columns, len(names))
        self._outputs = (out.view(np.uint8), out.view(np.uint16), out.view(np.int32), out)
        self.slots, self._versions = np.full(len(names), -1, np.int64), np.zeros(len(names), np.int64)
        self.told = np.zeros(kernels.T_WORDS, np.int64)
        self.shape = Shape.of(layout.spec, columns, self._plan, len(names))
        self.arrays, self.valid = self.shape.views(out)
        self.turn_to(names)

    def turn_to(self, names: tuple[str, ...] | pa.Array) -> None:
        """From now on row i is names[i]'s; there are as many as before. A tuple is remembered, an array (string, no nulls)
        looked up anew."""
        self._names: tuple[str, ...] | pa.Array = names
        self._look_up()

    def copied(self) -> tuple[Ints, Ints, Told]:
        """(output for `shape.views`, slots: -1 where there is no row, what it was made of) of the last read."""
        words = self.told.tolist()
        told = Told(Offset(words[kernels.T_END]), Offset(words[kernels.T_FLOOR]), Offset(words[kernels.T_PERSISTED]))
        return self._outputs[3].copy(), self.slots.copy(), told

    def attempt(self, *arguments: Any) -> int:
        """One try; what `kernels_prepared` returns. The keys were looked up before it read the end, and below the end may
        be the first row of a key that was new to the look-up: whoever finds one begins again."""
        status = self._run(*arguments)
        return kernels.AGAIN if status == kernels.DONE and self._encode() else status

    @abstractmethod
    def _run(self, *arguments: Any) -> int:
        """The kernel call, with the codes as they are known."""

    def _encode(self) -> bool:
        """Look up again the keys that the shard had not seen, where it has seen more keys since; whether one is found now."""
        if self._complete or self._known == self._index.count:
            return False
        before = self._codes
        self._look_up()
        return not np.array_equal(before, self._codes)

    def _look_up(self) -> None:
        codes = self._index.remembered(self._names) if isinstance(self._names, tuple) else None
        if codes is not None:
            self._codes, self._complete = codes, True
            return
        self._known = self._index.count  # first: of keys that come later it says so
        self._codes, self._complete = self._index.each(self._names)

    def _arguments(self) -> tuple[Any, ...]:
        """What every kernel call begins with."""
        return (
            *self._memory, self._codes, self._page, self._plan, *self._outputs, self.slots, self._versions, self.told,
        )  # fmt: skip

    @property
    def end(self) -> Offset:
        """What the last read saw: the rows below it."""
        return Offset(int(self.told[kernels.T_END]))

    @property
    def undecided(self) -> int:
        """Rows of the last read that RAM alone could not decide."""
        return int(self.told[kernels.T_UNDECIDED])


class PreparedLastBy(Prepared):
    """Each key's last row."""

    @property
    def outdated(self) -> bool:
        """Whether the last read may lack a key, since there are more now than it was made for."""
        return False

    def _run(self, *arguments: Any) -> int:
        return int(kernels.last_now(*self._arguments()))


class PreparedEvery(PreparedLastBy):
    """The last rows of all keys that there were when it was made, ascending by key: `keys` says which."""

    def __init__(
        self, layout: Layout, views: Views, L: Ints, index: KeyIndex, page: Ints, columns: tuple[str, ...]
    ) -> None:
        self._every, self.keys = index.sorted()
        self._knows_history = bool(views.mem[w.H_COMPLETE])  # as long as the hot set lives
        super().__init__(layout, views, L, index, page, ("",) * len(self.keys), columns)

    @property
    def outdated(self) -> bool:
        return self._index.count != len(self.keys)

    @property
    def undecided(self) -> int:
        """Where history may have keys that RAM has not, nothing is decided."""
        return super().undecided if self._knows_history else max(1, len(self.keys))

    def _look_up(self) -> None:
        self._codes, self._complete = self._every, True


class PreparedAsof(Prepared):
    """Each key's row as of a time of its own."""

    def __init__(self, *base: Any, direction: str, tolerance_ns: int | None, allow_exact: bool) -> None:
        super().__init__(*base)
        self._rule = (_DIRECTIONS[direction], int(allow_exact), -1 if tolerance_ns is None else tolerance_ns)
        self._scratch = (np.empty(len(self.slots), np.int64), np.zeros(3, np.int64), np.empty(PLACES, np.int64))

    def _run(self, *arguments: Any) -> int:
        return int(kernels.asof_now(*self._arguments(), arguments[0], *self._rule, *self._scratch))


def _plan(layout: Layout, columns: tuple[str, ...], count: int) -> tuple[Ints, Ints]:
    """(the kernels' plan, the output): the columns, then the validity of those that are nullable."""
    spec, cells = layout.spec, {name: region.first_cell for name, region in layout.regions.items()}
    roles = {spec.time: "time", spec.seq: "seq"}
    wanted = [(_dtype_of(spec, n).itemsize, cells[roles.get(n, f"data:{n}")]) for n in columns]
    wanted += [(1, cells[f"valid:{n}"]) for n in columns if spec.column(n).nullable]
    plan, at = np.zeros(len(wanted) * F_WORDS, np.int64), 0
    for c, (width, base) in enumerate(wanted):
        plan[c * F_WORDS + F_WIDTH], plan[c * F_WORDS + F_BASE], plan[c * F_WORDS + F_OUT] = width, base, at
        at += (count * width + _ALIGN - 1) // _ALIGN * _ALIGN
    plan.flags.writeable = False
    return plan, np.zeros(max(at, 8) >> 3, np.int64)
