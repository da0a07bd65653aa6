"""Tokens: the vector {shard: (epoch, end)} at some instant, as one opaque string.

Encoding (version 1, documented in docs/formats/token.md): the text `px1.` and the base64url form, without padding, of

    entry*  crc32
    entry = varint(shard) varint(epoch) varint(end)        in ascending order of shard, LEB128 varints
    crc32 = CRC-32 (zlib's) of all entry bytes, 4 bytes, little-endian
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxist.errors import InvalidArgument
from proxist.model.ids import Epoch, Offset, ShardId

PREFIX = "px1."


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one shard stood: rows of the shard below `end` were accepted, the last of them under `epoch`."""

    epoch: Epoch
    end: Offset


@dataclass(frozen=True)
class Token:
    """An immutable {shard: Mark}. `str(token)` is its encoding; `parse_token` reads it back."""

    marks: Mapping[ShardId, Mark]

    def __str__(self) -> str:
        entries = b"".join(
            varint(shard) + varint(mark.epoch) + varint(mark.end) for shard, mark in sorted(self.marks.items())
        )
        packed = entries + zlib.crc32(entries).to_bytes(4, "little")
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    def merge(self, other: Token) -> Token:
        """The later mark of each shard: what both tokens saw."""
        marks = dict(self.marks)
        for shard, mark in other.marks.items():
            mine = marks.get(shard)
            if mine is None or (mark.epoch, mark.end) > (mine.epoch, mine.end):
                marks[shard] = mark
        return Token(marks)


def parse_token(text: object) -> Token:
    """Read a token's text. Raises InvalidArgument where it is not one, or was cut or altered."""
    wrong = InvalidArgument(
        f"{str(text)[:80]!r} is not a token of this version. Pass the text of an ack's or receipt's `token` unchanged."
    )
    if not isinstance(text, str) or not text.startswith(PREFIX):
        raise wrong
    body = text.removeprefix(PREFIX)
    try:
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        raise wrong from None
    entries, crc = packed[:-4], packed[-4:]
    if zlib.crc32(entries).to_bytes(4, "little") != crc:
        raise wrong
    try:
        numbers = list(_read_varints(entries))
    except IndexError:
        raise wrong from None
    if len(numbers) % 3:
        raise wrong
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return Token({ShardId(shard): Mark(Epoch(epoch), Offset(end)) for shard, epoch, end in triples})


def varint(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield value
