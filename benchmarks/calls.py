"""The calls by which ways to run a cluster are compared: lone acks and last-by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import proxist
from benchmarks.floors import BATCH_ROWS
from benchmarks.rows import SPEC, Rows


@contextmanager
def loaded(endpoints: dict[str, Any], rows: Rows) -> Iterator[Any]:
    """A connection to a cluster, with or without TLS, whose table SPEC has rows."""
    with proxist.connect(endpoints["query"][0]["flight"], attach="never", **_identity(endpoints)) as connection:
        connection.create_table(SPEC)
        connection.table(SPEC.name).write(rows.table.slice(0, 100_000))
        yield connection


def _identity(endpoints: dict[str, Any]) -> dict[str, Any]:
    """What `connect` needs where the cluster has TLS."""
    if "tls" not in endpoints:
        return {}
    files = endpoints["tls"]
    shown = {f"tls_{name}": files[name] for name in ("ca", "cert", "key")}
    return {**shown, "token": Path(files["token_file"]).read_text().strip()}


@contextmanager
def calls(connection: Any, rows: Rows) -> Iterator[dict[str, Callable[[], object]]]:
    """What is compared, each on a stream of its own that stays open."""
    batch = rows.table.slice(0, BATCH_ROWS).combine_chunks().to_batches()[0]
    one = [rows.keys[len(rows.keys) // 2]]
    with ExitStack() as open_streams:
        found: dict[str, Callable[[], object]] = {}
        for level in ("os", "disk"):
            connection.create_table({**SPEC.to_json(), "name": f"priced_{level}", "durability": level})
            writer = open_streams.enter_context(connection.table(f"priced_{level}").writer())
            found[f"ack, {level}"] = partial(writer.write, batch)
        session = open_streams.enter_context(connection.session())
        found["last_by, one key, session"] = partial(session.last_by, SPEC.name, one, ["price"])
        found["last_by, one key, DoGet"] = partial(connection.last_by, SPEC.name, one, ["price"])
        yield found
