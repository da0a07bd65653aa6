"""A client with a spool, as a process to be killed: `python spool_feeder.py URI TABLE SPOOL BATCHES`.

Batch `n` has the rows that `batch_rows(n)` says, so a restart needs no memory of its own: it goes on with `next_seq`.
Prints `taken n` when the spool has a batch, and `acked n` at the end, once everything up to n is acked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

import proxist

ROWS = 20


def batch_rows(number: int) -> pa.Table:
    ids = range(number * ROWS, (number + 1) * ROWS)
    return pa.table(
        {
            "symbol": pa.array([f"S{i % 7}" for i in ids], pa.string()),
            "ts": pa.array(list(ids), pa.timestamp("ns", "UTC")),
            "trade_id": pa.array(list(ids), pa.uint64()),
            "price": pa.array([i / 4 for i in ids], pa.float64()),
        }
    )


def main(uri: str, table: str, spool: str, batches: int) -> None:
    with (
        proxist.connect(uri, lazy=True, attach="never") as connection,
        connection.table(table).writer(spool=Path(spool), producer="feeder") as writer,
    ):
        while (number := writer.next_seq) <= batches:
            writer.send(batch_rows(number))
            print("taken", number, flush=True)
        writer.flush()
        print("acked", writer.next_seq - 1, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
