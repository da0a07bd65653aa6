"""One cluster with auth, two tenants, and a token of every kind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from auth_cluster import CANARY_SYMBOL, CANARY_TABLE, DAY_NS, TABLE, Guarded, rows, spec
from auth_traces import Wiretap

import proxist
from proxist.auth.cluster import ClusterSecret
from proxist.auth.store import revoke_token
from proxist.etcd import EtcdClient
from proxist.testing.cluster import LocalCluster


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    base: Path = tmp_path_factory.mktemp("guarded")
    secret = secrets.token_hex(32)
    (base / "secret").write_text(secret + "\n")
    wiretap = Wiretap()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wiretap.environment(OTEL_TRACES_SAMPLER="always_on").items():
            patch.setenv(name, value)
        patch.setenv("PROXIST_AUTH", "tokens")
        patch.setenv("PROXIST_CLUSTER_SECRET_FILE", str(base / "secret"))
        cluster = LocalCluster(base / "data").start()
    etcd = EtcdClient(cluster.endpoints["etcd"])
    try:
        found = Guarded(cluster, secret, {}, etcd, wiretap)
        ended = found.token("acme", "admin")
        revoke_token(etcd, ended.split("_")[1], None)
        found.tokens = {
            "none": None,
            "garbage": "px_not-a-token",
            "unknown": "px_" + "0" * 12 + "_" + "0" * 48,
            "expired": found.token("acme", "admin", life_ns=1, now_ns=time.time_ns() - DAY_NS),
            "revoked": ended,
            "wrong tenant": found.token("umbra", "admin"),
            "other tables": found.token("acme", "admin:other*"),
            "reader": found.token("acme", "reader"),
            "writer": found.token("acme", "writer"),
            "operator": found.token("acme", "operator"),
            "admin": found.token("acme", "admin"),
            "cluster": found.token("*", "operator"),
            "internal": ClusterSecret((secret,)).sign("test-0"),
        }
        uri = cluster.endpoints["query"][0]["flight"]
        for tenant, name, symbol in (("admin", TABLE, "A"), ("wrong tenant", CANARY_TABLE, CANARY_SYMBOL)):
            with proxist.connect(uri, token=found.tokens[tenant]) as connection:
                connection.create_table(spec(name)).write(rows(symbol))
                connection.flush(name)
        yield found
    finally:
        etcd.close()
        cluster.stop()
        wiretap.close()
