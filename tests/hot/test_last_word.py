"""The word that names a key's last row keeps half of the row's offset, and tells with it what the whole one would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxist.hot.kernels_last import ROWS_MAX, named_between, slot_named, word_of

HALF = 2**32
slots = st.integers(0, ROWS_MAX + 2**21)
seams = st.one_of(st.integers(0, 2**62), st.integers(0, 2**29).map(lambda n: n * HALF))
lengths = st.one_of(st.integers(0, ROWS_MAX), st.sampled_from((0, 1, ROWS_MAX)))


@given(slots, st.integers(0, 2**62))
def test_the_slot_comes_back_whatever_the_offset(slot: int, offset: int) -> None:
    assert slot_named(word_of(slot, offset)) == slot


def test_a_key_without_rows_names_no_slot() -> None:
    assert slot_named(0) == -1


@given(slots, seams, lengths, st.data())
def test_half_an_offset_tells_inside_from_outside(slot: int, seam: int, length: int, data: st.DataObject) -> None:
    end = seam + length
    nearest = st.sampled_from((seam - 1, seam, end - 1, end))
    offset = max(0, data.draw(st.one_of(nearest, st.integers(end - HALF, seam + HALF - 1))))
    assert named_between(word_of(slot, offset), seam, end) == (seam <= offset < end)


def test_an_end_that_was_read_before_a_later_seam_holds_no_row() -> None:
    assert not any(named_between(word_of(7, offset), 20, 10) for offset in range(30))
