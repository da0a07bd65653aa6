"""A process that reads an attached hot set for ever; it says so on stdout once it has read it for the first time.

usage: stuck_reader.py ATTACH_SOCKET SHARD
"""

from __future__ import annotations

import os
import sys

from proxist.hot.ops import HotScan
from proxist.hot.reader import HotReader
from proxist.rpc.attached import request_fd


def main(attach: str, shard: str) -> None:
    descriptor, info = request_fd(attach, int(shard))
    reader = HotReader.attach(descriptor, info["epoch_page"])
    os.close(descriptor)
    rows = reader.run(HotScan()).rows.num_rows
    print(f"read {rows}", flush=True)
    while True:
        reader.run(HotScan())


if __name__ == "__main__":
    main(*sys.argv[1:3])
