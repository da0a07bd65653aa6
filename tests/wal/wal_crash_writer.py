"""Appends until it is killed, saying on stdout what it has acknowledged: `os <end>` or `disk <end>` a line."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from wal_support import append_rows, open_log


def main() -> None:
    log = open_log(Path(sys.argv[1]), start=int(sys.argv[2]), epoch=int(sys.argv[3]), segment_bytes=1 << 15)
    say = threading.Lock()
    appended = threading.Event()

    def flush() -> None:
        while appended.wait():
            appended.clear()
            end = log.sync()
            with say:
                print("disk", end, flush=True)

    threading.Thread(target=flush, daemon=True).start()
    number = 0
    while True:
        append_rows(log, 1 + number % 50, number=number)
        with say:
            print("os", log.end, flush=True)
        appended.set()
        number += 1


main()
