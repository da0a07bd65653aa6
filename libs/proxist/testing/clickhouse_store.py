"""A ClickHouse server under test, and rows to put into it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import clickhouse_connect
import numpy as np
import pyarrow as pa

from proxist.clickhouse import ClickHouse, table_name
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist.rpc.tls import Tls

_TABLE_IDS = itertools.count(1)


@dataclass(frozen=True)
class Store:
    """A server under test: our client, and the plain clickhouse-connect client as any user has it."""

    clickhouse: ClickHouse
    plain: Any
    options: Mapping[str, Any]
    """With which any further plain client gets in."""

    @classmethod
    def connect(cls, url: str, tls: Tls | None = None) -> Store:
        ours = ClickHouse(url, tls=tls)
        end = ours.endpoint
        options: dict[str, Any] = {"host": end.host, "port": end.port, "secure": end.secure}
        options |= {"username": end.user, "password": end.password}
        if tls is not None:
            files = {"ca_cert": tls.ca, "client_cert": tls.cert, "client_cert_key": tls.key}
            # strict: the password counts, and the certificate is for the connection alone.
            options |= {"tls_mode": "strict", **{name: str(path) for name, path in files.items()}}
        return cls(ours, clickhouse_connect.get_client(**options), options)

    def close(self) -> None:
        self.clickhouse.close()
        self.plain.close()

    def table(self, *columns: dict[str, Any], seq: bool = False) -> Table:
        """A new, created table with ts, symbol, (n,) and `columns`; its name is used by no other."""
        fixed: list[dict[str, Any]] = [
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "symbol", "type": "string"},
        ]
        if seq:
            fixed.append({"name": "n", "type": "uint64"})
        wire = {"name": f"t_{uuid.uuid4().hex[:12]}", "time": "ts", "key": "symbol", "columns": [*fixed, *columns]}
        spec = parse_spec(wire | ({"seq": "n"} if seq else {}))
        table = Table(TableId(next(_TABLE_IDS)), "conformance", spec, (ShardId(7),))
        self.clickhouse.create_table(table)
        return table


def rows_of(table: Table, count: int, *, first: int = 0, time_ns: int = 10**18, **columns: pa.Array) -> pa.Table:
    """`count` rows of one key with offsets from `first` on under log 7·2^24 + 1; other columns as given."""
    offsets = np.arange(first, first + count, dtype=np.uint64)
    values: dict[str, pa.Array] = {
        "ts": pa.array(time_ns + offsets.astype(np.int64)).view(pa.timestamp("ns", tz="UTC")),
        "symbol": pa.array(["A"] * count),
        "n": pa.array(offsets),
        "_log": pa.array(np.full(count, (7 << 24) + 1, dtype=np.uint64)),
        "_offset": pa.array(offsets),
        **columns,
    }
    names = [*table.spec.schema.names, "_log", "_offset"]
    return pa.table({name: values[name] for name in names})


def count_of(store: Store, table: Table) -> int:
    answer = store.clickhouse.query(f"SELECT count() AS c FROM {table_name(table)}")
    return int(answer["c"][0].as_py())
