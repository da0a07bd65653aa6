"""HTTP content codings of request bodies. Answers are never compressed: the wire is this machine's loopback."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import lz4.frame  # type: ignore[import-untyped]  # has no stubs
from backports import zstd

BODY_BYTES_MAX = 4 * 2**30
"""Bound of a request's body after decompression; chunks beyond it are not read."""

_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "identity": lambda body: body,
    "gzip": gzip.decompress,
    "x-gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "lz4": lz4.frame.decompress,
    "zstd": zstd.decompress,
}


def decompress(body: bytes, coding: str) -> bytes:
    """The body under the content coding `coding` (lower case; "" for none).

    Raises LookupError for a coding that is not offered (`br` among them), ValueError for a body that is not in it.
    """
    decoder = _DECODERS[coding]
    try:
        return decoder(body)
    except (OSError, EOFError, RuntimeError, zlib.error, zstd.ZstdError) as error:
        raise ValueError(f"the body is not {coding}: {error}") from None
