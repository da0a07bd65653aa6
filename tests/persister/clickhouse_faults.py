"""A persister behind a faulty ClickHouse, and the oracle that says what must be there in the end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import xxhash
from stub_owner import StubOwner, make_rows

from proxist.clickhouse import ClickHouse, table_name
from proxist.model.table import Table
from proxist.testing.clickhouse_proxy import ClickHouseProxy, Fault, Kind

ANSWER_TIMEOUT_S = 0.5
"""Of the persister: how long a silent statement costs a test."""
WAIT_S_MAX = 120.0
"""A machine that is busy with other things answers late, which is one more fault."""
AFTER = (Fault.ERROR_AFTER_APPLY, Fault.TIMEOUT_AFTER_APPLY, Fault.RESET_AFTER_APPLY)
"""The insert has happened, and its sender does not know."""
FAULTS: tuple[tuple[Kind, Fault], ...] = (
    ("insert", Fault.ERROR_BEFORE_APPLY),
    ("insert", Fault.OK_WITHOUT_APPLY),
    ("insert", Fault.TIMEOUT_BEFORE_APPLY),
    ("insert", Fault.RESET_BEFORE_APPLY),
    ("insert", Fault.STALL),
    *(("insert", fault) for fault in AFTER),
    ("select", Fault.ERROR_BEFORE_APPLY),
    ("select", Fault.OK_WITHOUT_APPLY),
    ("select", Fault.TIMEOUT_AFTER_APPLY),
    ("select", Fault.RESET_AFTER_APPLY),
    ("select", Fault.HALF_ANSWER),
    ("select", Fault.SHORT_ANSWER),
)
assert set(get_args(Kind)) >= {kind for kind, _ in FAULTS}


def meet(proxy: ClickHouseProxy, owner: StubOwner, plan: Iterable[tuple[Kind, Fault]], rng: random.Random) -> list[Any]:
    """Cut a batch for each fault of `plan`, and wait until it is persisted all the same. Returns what was cut."""
    cuts = []
    for kind, fault in plan:
        proxy.inject(kind, fault)
        rows, days = rng.randint(1, 400), rng.choice((1, 1, 1, 2, 3))
        first = owner.end
        owner.cut(rows, days)
        cuts.append((first, owner.end, days))
        if fault is Fault.STALL:
            proxy.wait_stalled(1)
        owner.wait_persisted(owner.end, WAIT_S_MAX)
        if fault is Fault.STALL:
            landed = proxy.applied["insert"]
            proxy.release()
            proxy.wait_applied("insert", landed + 1)
    return cuts


def check_exact(clickhouse: ClickHouse, table: Table, shard: int, cuts: list[Any], epoch: int = 1) -> None:
    """Every row that was cut is there once: by offset, and by a hash of its content against the rows as made."""
    got = clickhouse.query(f"SELECT * FROM {table_name(table)} ORDER BY _offset")
    end = cuts[-1][1]
    counts = Counter(got["_offset"].to_pylist())
    assert [n for n, copies in counts.items() if copies > 1] == []
    assert [n for n in range(end) if n not in counts] == []
    assert len(counts) == end
    want = pa.Table.from_batches([make_rows(table, shard, epoch, *cut) for cut in cuts])
    assert content_hash(got.cast(want.schema)) == content_hash(want)


def content_hash(rows: pa.Table) -> str:
    """Of the values one after the other; nothing of the product's own comparison is in it."""
    digest = xxhash.xxh3_128()
    for name in rows.column_names:
        column = rows[name]
        values = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        digest.update(name.encode())
        digest.update(repr(values.to_pylist()).encode())
    return digest.hexdigest()


def settings(name: str, etcd: str, url: str, data_dir: Path) -> dict[str, Any]:
    return {
        "name": name,
        "etcd": etcd,
        "clickhouse": url,
        "lease_ttl_s": 2,
        "insert_timeout_s": ANSWER_TIMEOUT_S,
        "data_dir": data_dir,
    }
