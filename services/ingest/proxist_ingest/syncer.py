"""The thread that flushes the log of a table whose durability is below `disk`, beside the writer."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Syncer:
    """`sync` runs once for whatever was asked meanwhile; what it raises ends the thread and is told to `died`."""

    def __init__(self, name: str, sync: Callable[[], None], died: Callable[[BaseException], None]) -> None:
        self._sync = sync
        self._died = died
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """Flush what is written now, soon. For any thread."""
        self._asked.set()

    def give_up(self) -> None:
        """Flush nothing more: the shard has failed. Returns at once."""
        self._given_up = True
        self._asked.set()

    def stop(self) -> None:
        """Flush once more, unless given up, and end; joins the thread."""
        self._stopping.set()
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._asked.wait()
                self._asked.clear()  # before the looks: what is set after them wakes the next wait
                stopping = self._stopping.is_set()
                if self._given_up:
                    return
                self._sync()
                if stopping:
                    return
        except BaseException as error:
            self._died(error)
