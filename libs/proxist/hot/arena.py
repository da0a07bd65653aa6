"""The memory itself: a sealed memfd, mapped once per process, seen as arrays of four cell widths.

The owner maps it writable, everybody else read-only. Readers get read-only views in the owner's process too, so that
one set of compiled kernels serves both. The mapping ends when the last view is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import stat
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proxist.errors import Unavailable
from proxist.hot import words as w
from proxist.hot.layout import DESCRIPTOR_BYTES_MAX, HUGE_PAGE, HUGE_REGION_BYTES, PAGE, Layout, layout_from_bytes

_ATTACH_MACHINES = ("x86_64", "AMD64")
"""Machines whose memory order the reader's protocol was tested on."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The whole memory as cells of 1, 2, 4 and 8 bytes."""

    mem8: npt.NDArray[np.uint8]
    mem16: npt.NDArray[np.uint16]
    mem32: npt.NDArray[np.int32]
    mem: npt.NDArray[np.int64]

    def readonly(self) -> Views:
        """The same memory through views that cannot be written."""
        views = Views(self.mem8.view(), self.mem16.view(), self.mem32.view(), self.mem.view())
        for view in (views.mem8, views.mem16, views.mem32, views.mem):
            view.flags.writeable = False
        return views


def _views(memory: mmap.mmap) -> Views:
    def as_cells(dtype: Any) -> npt.NDArray[Any]:
        return np.frombuffer(memory, dtype)

    return Views(as_cells(np.uint8), as_cells(np.uint16), as_cells(np.int32), as_cells(np.int64))


class Arena:
    """The owner's mapping. `close` drops it; a reader that still runs keeps the pages until it is done."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.fd = os.memfd_create(f"proxist-{layout.spec.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(self.fd, stat.S_IRUSR | stat.S_IWUSR)
        os.ftruncate(self.fd, layout.total_bytes)
        # not FUTURE_WRITE: it makes MADV_REMOVE fail
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = mmap.mmap(self.fd, layout.total_bytes)
        for region in layout.regions.values():
            if region.bytes >= HUGE_REGION_BYTES:
                with contextlib.suppress(OSError):  # best effort: 4 KiB pages cost about 1.3x on random gathers
                    self._memory.madvise(mmap.MADV_HUGEPAGE, region.start, region.bytes // HUGE_PAGE * HUGE_PAGE)
        self.views = _views(self._memory)
        descriptor = layout.to_bytes()
        if len(descriptor) > DESCRIPTOR_BYTES_MAX:
            raise AssertionError("the descriptor of 1,024 columns fits")
        self.views.mem8[PAGE : PAGE + len(descriptor)] = np.frombuffer(descriptor, np.uint8)
        self.views.mem[w.H_DESCRIPTOR_BYTES] = len(descriptor)

    def readonly_fd(self) -> int:
        """A new descriptor that cannot be mapped writable."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def give_back(self, start: int, stop: int) -> None:
        """Return the whole pages within bytes [start, stop) to the system; readers then see zeros."""
        start, stop = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        if stop > start:
            with contextlib.suppress(OSError):  # it only saves memory
                self._memory.madvise(mmap.MADV_REMOVE, start, stop - start)

    def close(self) -> None:
        empty = np.zeros(0, np.uint8)
        self.views = Views(empty, empty.view(np.uint16), empty.view(np.int32), empty.view(np.int64))
        del self._memory
        os.close(self.fd)


def map_readonly(fd: int) -> tuple[Layout, Views]:
    """Map another process's hot set. Raises Unavailable where it cannot be read safely here."""
    if platform.machine() not in _ATTACH_MACHINES:
        raise Unavailable(
            f"Attaching on {platform.machine()} is not supported: the reader's protocol was proven on x86-64 only. "
            "Use Flight (hot_path: flight).",
            reason="machine",
        )
    size = os.fstat(fd).st_size
    if size < PAGE + DESCRIPTOR_BYTES_MAX or size % HUGE_PAGE:
        raise Unavailable("The descriptor that was handed out is no hot set. Use Flight instead.", reason="format")
    views = _views(mmap.mmap(fd, size, prot=mmap.PROT_READ))
    length = int(views.mem[w.H_DESCRIPTOR_BYTES])
    if int(views.mem[w.H_MAGIC]) != w.MAGIC or int(views.mem[w.H_VERSION]) != w.VERSION:
        raise Unavailable(
            f"The hot set has format {int(views.mem[w.H_VERSION])}, this program reads {w.VERSION}. "
            "Use Flight instead, or run the same version as the owner.",
            reason="format",
        )
    layout = layout_from_bytes(views.mem8[PAGE : PAGE + min(max(length, 0), DESCRIPTOR_BYTES_MAX)].tobytes())
    if layout.total_bytes != size or any(r.start + r.bytes > size for r in layout.regions.values()):
        raise Unavailable("The hot set's descriptor names memory that it does not have. Use Flight.", reason="format")
    return layout, views
