"""A Flight server that does nothing, in a process of its own: the floor of every call. `python -m benchmarks.null_server URI`."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import sys
import threading
from typing import Any

import pyarrow as pa
from pyarrow import flight

ONE = pa.record_batch({"x": pa.array([1])})


class Null(flight.FlightServerBase):
    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        writer.begin(ONE.schema)
        for _ in reader:
            writer.write_with_metadata(ONE, b"{}")

    def do_get(self, context: Any, ticket: Any) -> Any:
        return flight.RecordBatchStream(pa.Table.from_batches([ONE]))

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        ack = pa.py_buffer(b'{"rows":1000}')
        for _ in reader:
            writer.write(ack)


if __name__ == "__main__":
    server = Null(sys.argv[1])
    print(server.port, flush=True)
    threading.Event().wait()
