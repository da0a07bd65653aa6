"""Which processes may share memory: those of one host."""

from __future__ import annotations

from pathlib import Path


def this_host_id() -> str:
    """Equal in all processes of one running kernel and one process namespace.

    Those see each other's pids and sockets and may attach to each other's shared memory. Containers of different pods
    share a kernel, but neither pids nor directories; those of one pod do where it has a common process namespace.
    """
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{kernel}/{Path('/proc/self/ns/pid').readlink()}"
