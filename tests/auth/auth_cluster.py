"""What the tests of a cluster with auth share: its tables, tenants, and a token of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from auth_traces import Wiretap

from proxist.auth.identity import parse_grant
from proxist.auth.store import create_token
from proxist.etcd import EtcdClient
from proxist.testing.cluster import LocalCluster

TABLE = "acmefills"
CANARY_TABLE, CANARY_SYMBOL = "umbraledger7f3", "CNRYSYM7F3"
DAY_NS = 86_400 * 10**9


@dataclass
class Guarded:
    """`tokens`: by kind; None is no token."""

    cluster: LocalCluster
    secret: str
    tokens: dict[str, str | None]
    etcd: EtcdClient
    wiretap: Wiretap

    @property
    def endpoints(self) -> dict[str, Any]:
        return self.cluster.endpoints

    @property
    def secrets(self) -> list[str]:
        """The secret part of every token of etcd's, and the cluster's."""
        made = [token.split("_") for token in self.tokens.values() if token]
        return [
            self.secret,
            *(parts[2] for parts in made if len(parts) == 3 and len(parts[2]) == 48 and parts[1][0:6] != "000000"),
        ]

    def token(self, tenant: str, *grants: str, life_ns: int = DAY_NS, now_ns: int | None = None) -> str:
        token, _ = create_token(
            self.etcd,
            tenant=tenant,
            grants=[parse_grant(grant) for grant in grants],
            expires_in_ns=life_ns,
            now_ns=now_ns,
        )
        return token


def spec(name: str) -> dict[str, Any]:
    columns = [("ts", "timestamp[ns, tz=UTC]"), ("symbol", "string"), ("price", "double")]
    return {
        "name": name,
        "time": "ts",
        "key": "symbol",
        "columns": [{"name": name, "type": type_} for name, type_ in columns],
    }


def rows(symbol: str) -> pa.Table:
    times = pa.array([1_000, 2_000], pa.timestamp("ns", tz="UTC"))
    return pa.table({"ts": times, "symbol": [symbol, symbol], "price": [1.0, 2.0]})
