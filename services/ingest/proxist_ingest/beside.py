"""A thread that does one piece of work while its caller does another, in the same turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class Beside:
    """Used by one thread at a time; the thread starts with the first piece and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._todo: SimpleQueue[Work | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def both(self, beside: Work, here: Work) -> None:
        """Do `beside` on the other thread and `here` on this one; both have ended on return.

        Raises what `here` raised, else what `beside` did.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._todo.put(beside)
        try:
            here()
        finally:
            error = self._done.get()
        if error is not None:
            raise error

    def close(self) -> None:
        """End the thread. Not while `both` runs."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            try:
                work()
            except BaseException as error:  # raised again in `both`
                self._done.put(error)
            else:
                self._done.put(None)
            del work
