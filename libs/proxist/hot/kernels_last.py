"""The word that names a key's last row: slot + 1 in its low half, the low half of the row's offset in its high half.

So one load tells where the row is and whether it lies in a reader's [seam, end), without a look at the row's offset,
which lies on a page of its own. Half an offset is enough. Rows in RAM have consecutive offsets and at most ROWS_MAX
slots, so end - seam is at most ROWS_MAX, and an offset outside that looks as if it were inside differs from one inside
by 2**32 or a multiple. A row so far above the seam came when the floor had passed the seam, which the reader's last
check finds. A row so far below the end was evicted before the end was reached, and since then the word names a boundary
row: of those the slot alone counts, and the half offset is 0.
"""

from __future__ import annotations

from proxist.hot.jit import part

ROWS_MAX = 2**31
_LOW = 2**32 - 1


def slot_named(word: int) -> int:
    """The slot; -1 where the key never had a row."""
    return (word & _LOW) - 1


def named_between(word: int, seam: int, end: int) -> bool:
    """Whether the row's offset is in [seam, end); of a boundary row it means nothing."""
    return ((word >> 32) - seam) & _LOW < end - seam


slot_of, is_between = part(slot_named), part(named_between)


@part
def word_of(slot: int, offset: int) -> int:
    """The word of the row at `slot`."""
    return (offset & _LOW) << 32 | (slot + 1)
