"""Begins recoveries of one data directory in children and kills each with SIGKILL after a random while; prints how many
had not ended by themselves."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

from snapshotted import Home, table_of

from proxist.etcd.records import ShardRecord
from proxist.model.ids import Epoch
from proxist_ingest.recover import create_log


def main(data_dir: str, record: str, kills: str, seed: str) -> None:
    home = Home(Path(data_dir), ShardRecord.from_json(json.loads(record)), table_of())
    _open(home)  # the first one loads what the others find loaded
    began = time.monotonic()
    _open(home)
    took_s, random, killed = time.monotonic() - began, Random(int(seed)), 0
    for _ in range(int(kills)):
        child = os.fork()
        if not child:
            try:
                _open(home)
            finally:
                os._exit(0)
        time.sleep(took_s * random.uniform(0, 0.6))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    print(killed)


def _open(home: Home) -> None:
    """As far as an opening goes before it tells etcd."""
    found = home.recover()
    log = create_log(home.data_dir, home.table, home.record.shard, Epoch(home.record.epoch + 1), found)
    log.close()
    found.hot.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
