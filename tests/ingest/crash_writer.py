"""A process that owns one shard and writes to it until it is killed; says each ack on stdout.

usage: crash_writer.py DATA_DIR RECORD_JSON DURABILITY ROUND
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ingest_rows import rows, table
from ingest_shards import Owner

from proxist.etcd.records import ShardRecord

PRODUCERS = 3
ROWS = 7


def batch_of(producer: int, number: int) -> int:
    """The first trade_id of a producer's batch: all its content follows from it."""
    return producer * 1_000_000 + number * ROWS


def main(data_dir: str, record: str, durability: str) -> None:
    owner = Owner(table(durability=durability, flush={"rows": 20}), Path(data_dir))
    owner.record = ShardRecord.from_json(json.loads(record))
    owner.open()
    print("open", flush=True)

    def produce(producer: int) -> None:
        last = owner.shard.producers.last(f"p{producer}")
        number = 0 if last is None else last
        while True:
            ack = owner.write(rows(ROWS, first=batch_of(producer, number)), producer=f"p{producer}", number=number)
            os.write(1, f"ack {producer} {number} {ack.epoch} {ack.end}\n".encode())
            number += 1

    for producer in range(PRODUCERS):
        threading.Thread(target=produce, args=(producer,)).start()


if __name__ == "__main__":
    main(*sys.argv[1:4])
