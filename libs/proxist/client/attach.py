"""Whether a connection reads in its own process: where owners run on this host, and the extra `attach` is installed."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxist.client.topology import Topology
from proxist.errors import ConfigError, InvalidArgument, ProxistError, Unavailable
from proxist.hot.host import this_host_id

if TYPE_CHECKING:
    from proxist.client.local import LocalReads

MODES = ("auto", "never", "require")
_CLOSE_WAIT_S = 5.0


class Elsewhere(Exception):
    """The read is for a query node: `error` says why a shard is not attached; None: it needs history, or is SQL."""

    def __init__(self, error: ProxistError | None) -> None:
        super().__init__()
        self.error = error


class Attaching:
    """A connection's local reads, made when they are first asked for. Thread-safe.

    "auto" makes them on a thread of its own, since loading the kernels takes a second, and compiling them for the first
    time a minute: until they are there, reads go over Flight. "require" makes them at once, or says why it cannot.
    """

    def __init__(self, mode: str, topology: Callable[..., Topology], token: str | None) -> None:
        if mode not in MODES:
            raise InvalidArgument(f"`attach` is {mode!r}, but must be one of {', '.join(MODES)}.")
        self.required = mode == "require"
        self._mode, self._topology, self._token = mode, topology, token
        self._lock = threading.Lock()  # guards _thread and _closed
        self._thread: threading.Thread | None = None
        self._closed = mode == "never"
        self._reads: LocalReads | None = None

    def check(self) -> None:
        """Where attaching is required: make the local reads now. Raises ConfigError where the extra is not installed,
        Unavailable where no owner may be attached from here."""
        if not self.required:
            return
        if importlib.util.find_spec("numba") is None:
            raise ConfigError(
                '`attach` is "require", and attaching needs numba, which is not installed. '
                'Run: pip install "proxist[attach]", or connect with attach="auto".'
            )
        if not self._near(self._topology()):
            raise Unavailable(
                '`attach` is "require", but no owner of this cluster can be attached from this process: none runs on this '
                'host, or the cluster lets this caller read over Flight only. Connect with attach="auto".'
            )
        self._load()

    def reads(self) -> LocalReads | None:
        """The local reads, None while there are none."""
        if self._reads is None and not self._closed and self._thread is None:
            self._begin()
        return self._reads

    def wait(self, timeout_s: float) -> bool:
        """Whether reads are local, after waiting until that is decided."""
        self.reads()
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return self._reads is not None

    def close(self) -> None:
        """Unmap everything."""
        with self._lock:
            self._closed = True
            thread, reads = self._thread, self._reads
            self._reads = None
        if thread is not None:
            thread.join(_CLOSE_WAIT_S)
        if reads is not None:
            reads.close()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._try, name="proxist-attach", daemon=True)
                self._thread.start()

    def _try(self) -> None:
        """In "auto" whatever stands in the way means Flight."""
        try:
            if importlib.util.find_spec("numba") is not None and self._near(self._topology()):
                self._load()
        except (ProxistError, ImportError, OSError):
            self._closed = True

    def _load(self) -> None:
        from proxist.client.local import LocalReads

        reads = LocalReads(self._topology, self._token, required=self.required)
        with self._lock:
            if not self._closed:
                self._reads = reads
                return
        reads.close()

    @staticmethod
    def _near(known: Topology) -> bool:
        try:
            return this_host_id() in known.hosts
        except OSError:  # not Linux
            return False
