"""How the kernels are compiled: with fixed signatures, without the GIL, cached on disk; and the fence.

The cache lives in `$PROXIST_KERNEL_CACHE`, else under the environment's prefix, else under `~/.cache`, in a directory
named by the versions that decide the code and by the kernels' own sources (numba checks only the file of the outermost
function). The first process to come compiles under a lock; then the directory is marked complete and never written
again (numba's index is not safe against concurrent writers).

Importing any kernel module means compiled: there is no compilation after import.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata as metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_config: Any = numba.config
_njit: Any = numba.njit  # its stub does not know `_nrt`
JIT = not _config.DISABLE_JIT

i64, f64 = types.int64, types.float64
u8r = types.Array(types.uint8, 1, "C", readonly=True)
i32r = types.Array(types.int32, 1, "C", readonly=True)
i64r = types.Array(types.int64, 1, "C", readonly=True)
u8w = types.Array(types.uint8, 1, "C")
i32w = types.Array(types.int32, 1, "C")
i64w = types.Array(types.int64, 1, "C")
f64r = types.Array(types.float64, 1, "C", readonly=True)
f64w = types.Array(types.float64, 1, "C")
u16r = types.Array(types.uint16, 1, "C", readonly=True)
u16w = types.Array(types.uint16, 1, "C")

_COMPLETE = "complete"


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile now for `signature`: the entry points. No bounds checks unless NUMBA_BOUNDSCHECK asks for them.

    Kernels and their parts allocate nothing (scratch comes from the caller), so they are compiled without numba's
    reference counts: an atomic pair per array and call, which cost more than the searches themselves.
    """
    return _njit(signature, nogil=True, cache=True, _nrt=False)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that only kernels call; it allocates nothing."""
    return _njit(nogil=True, _nrt=False, forceinline=True)(function)


@intrinsic
def _fence(_context: Any) -> Any:
    def build(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.none(), build


def _interpreted_fence() -> None:
    """Interpreted kernels run one bytecode after the other."""


fence: Any = _fence if JIT else _interpreted_fence
"""No load or store moves across it: a compiler barrier on x86-64, a real fence elsewhere."""


@intrinsic
def _prefetch(_context: Any, cells: Any, at: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        cell = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        hint = ir.FunctionType(ir.VoidType(), [cell.type, word, word, word])
        to_read, keep, data_cache = word(0), word(3), word(1)
        builder.call(
            builder.module.declare_intrinsic("llvm.prefetch", [cell.type], hint), [cell, to_read, keep, data_cache]
        )
        return context.get_dummy_value()

    return types.none(cells, at), build


def _interpreted_prefetch(_cells: Any, _at: int) -> None:
    """Interpreted kernels wait for nothing."""


prefetch: Any = _prefetch if JIT else _interpreted_prefetch
"""`prefetch(cells, at)`: the cache line of cells[at] is wanted soon. A hint that never faults, whatever `at` is."""


@intrinsic
def _load64(_context: Any, cells: Any, at: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        cell = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(cell, align=1)

    return types.int64(cells, at), build


def _interpreted_load64(cells: Any, at: int) -> Any:
    return cells[at : at + 8].view(np.int64)[0]


load64: Any = _load64 if JIT else _interpreted_load64
"""`load64(bytes, at)`: the eight bytes from `at` on as one little-endian int64. The caller makes sure that they are there."""


def _base_dir() -> Path:
    if chosen := os.environ.get("PROXIST_KERNEL_CACHE"):
        return Path(chosen)
    prefix = Path(sys.prefix) / "var" / "cache" / "proxist-kernels"
    with contextlib.suppress(OSError):
        prefix.mkdir(parents=True, exist_ok=True)
    return prefix if prefix.is_dir() else Path.home() / ".cache" / "proxist" / "kernels"


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name.startswith("kernels") or path.name in ("jit.py", "words.py"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def cache_dir() -> Path:
    """Where this build's kernels are (or will be) cached."""
    versions = f"py{sys.version_info.major}{sys.version_info.minor}-numba{numba.__version__}-llvmlite{metadata.version('llvmlite')}"
    switches = "-checked" if os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0") else ""
    return _base_dir() / f"{versions}-numpy{np.__version__}-{platform.machine()}{switches}-{_sources_hash()}"


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Import kernel modules inside: their cache is used, or filled by one process while others wait."""
    if not JIT:
        yield
        return
    path, before = cache_dir(), _config.CACHE_DIR
    path.mkdir(parents=True, exist_ok=True)
    scratch: str | None = None
    try:
        with contextlib.ExitStack() as stack:
            done = path / _COMPLETE
            if not done.exists():
                lock = stack.enter_context(open(path / "lock", "w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            elif not os.access(path, os.W_OK):
                # numba wants to write where it reads: a read-only image gets a private copy of a few hundred KB
                scratch = tempfile.mkdtemp(prefix="proxist-kernels-")
                path = Path(shutil.copytree(path, Path(scratch) / path.name, copy_function=shutil.copyfile))
                for directory in (path, *path.rglob("*/")):  # copytree gives the copies their originals' modes
                    directory.chmod(0o700)
            _config.CACHE_DIR = str(path)
            yield
            if not done.exists():
                done.touch()
    finally:
        _config.CACHE_DIR = before
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
