"""Canary: secrets, paths of the server, another tenant's names reach no client, and no secret or row any log or metric."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pyarrow as pa
import pytest
from auth_calls import Doors, outcome
from auth_cluster import CANARY_SYMBOL, CANARY_TABLE, TABLE, Guarded, rows
from test_auth_matrix import walk

import proxist
from proxist.auth.outgoing import fixed
from proxist.rpc.flight_client import FlightPeer

SQL = (
    f"SELECT * FROM umbra.{CANARY_TABLE}",
    "SELECT * FROM umbra.nothing",
    f"SELECT * FROM {TABLE} AS a, umbra.{TABLE} AS b",
    "SELECT name FROM system.tables",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM file('/etc/passwd')",
    "SELECT * FROM merge('umbra', '.*')",
    "SELECT * FROM remote('127.0.0.1', umbra, x)",
    "SELECT hostName(), currentDatabase()",
    "SELECT * FROM nothing",
    f"SELECT nocolumn FROM {TABLE}",
    f"SELECT toInt64('x' || symbol) FROM {TABLE}",
    f"SELECT throwIf(1, 'boom') FROM {TABLE}",
    f"SELECT dictGet('umbra.{CANARY_TABLE}', 'a', 1) FROM {TABLE}",
    f"SELECT count() FROM {TABLE} WHERE symbol IN (SELECT symbol FROM umbra.{CANARY_TABLE})",
    "SELECT",
    "DROP TABLE " + TABLE,
    "SHOW TABLES",
)


def requests_of(peer: FlightPeer, shard: int) -> Iterator[str]:
    """What a curious client of another tenant tries; all that it sees."""
    timeout_s = 10.0
    for text in SQL:
        yield outcome(lambda text=text: peer.do_get({"sql": text}, timeout_s=timeout_s).table).text  # type: ignore[misc]
        yield outcome(lambda text=text: peer.get_flight_info({"sql": text}, timeout_s=timeout_s).schema).text  # type: ignore[misc]
    for ticket in (
        {"scan": {"table": "nothing"}},
        {"scan": {"table": "umbra/" + CANARY_TABLE[:5]}},
        {"scan": {"table": "../umbra"}},
        {"last_by": {"table": TABLE, "keys": ["A"], "columns": ["nothing"]}},
        {"asof": {"left": {"table": TABLE}, "right": {"table": "nothing"}}},
        {"window": {"table": "nothing", "rows": 1, "aggs": [{"fn": "sum", "value": "nothing"}]}},
        {"window": {"table": TABLE, "rows": 1, "aggs": [{"fn": "sum", "value": "nothing"}]}},
        {"bars": {"table": "../umbra", "every": "1s", "aggs": [{"fn": "count"}]}},
        {"hot": {"shard": shard, "op": {"scan": {}}}},
        {"follow": {"shard": shard, "from": 0}},
        {"sql": 7},
        {},
    ):
        yield outcome(lambda ticket=ticket: peer.do_get(ticket, timeout_s=timeout_s).table).text  # type: ignore[misc]
    for path in (["nothing"], ["umbra", "nothing"], [TABLE], ["a", "b", "c"]):

        def put(path: list[str] = path) -> None:
            stream = peer.do_put(path, pa.schema([("wrong", pa.int64())]), timeout_s=timeout_s)
            stream.done_writing()
            try:
                stream.read_ack()
            finally:
                stream.close()

        yield outcome(put).text
    for name in ("topology", "flush", "drop_table", "producer", "create_table", "cancel", "nothing"):
        for body in ({}, {"table": "nothing"}, {"tenant": "umbra"}, {"tenant": "umbra", "table": "nothing"}):
            yield outcome(lambda name=name, body=body: peer.do_action(name, body, timeout_s=timeout_s)).text  # type: ignore[misc]


def test_no_answer_or_error_of_a_door_shows_anothers_names_secrets_or_paths(guarded: Guarded) -> None:
    # The asked text comes back in the answer to whoever asked; it says nothing that they did not say.
    hidden = {
        "another tenant's symbol": CANARY_SYMBOL,
        "the data directory": str(guarded.cluster.data_dir),
        "the code's directory": str(proxist.__path__[0]),
        "a file of the code": "flight_server.py",
        "the run directory": str(guarded.cluster.run_dir),
    } | {f"secret {n}": secret for n, secret in enumerate(guarded.secrets)}
    shard = 2
    for who in ("admin", "other tables"):
        seen: list[tuple[str, str]] = []
        for role in ("query", "ingest"):
            # A client over TCP: on the unix socket the URI itself, which the client chose, is in its own messages.
            with FlightPeer(guarded.endpoints[role][0]["flight"], fixed(guarded.tokens[who])) as peer:
                seen += [(f"{role} {n}", text) for n, text in enumerate(requests_of(peer, shard))]
        for entry, outcomes in walk(guarded, who, "umbra", CANARY_TABLE[:-1]).items():
            seen += [(entry, one.text.replace(str(guarded.cluster.run_dir), "", one.text.count("grpc+unix")))
                     for one in outcomes]  # fmt: skip
        for where, text in seen:
            for what, canary in hidden.items():
                assert canary not in text, f"{who} sees {what} at {where}: {text[:400]}"
            names = text.replace(f"umbra.{CANARY_TABLE}", "")
            assert CANARY_TABLE not in names, f"{who} sees another tenant's table at {where}: {text[:400]}"


def test_logs_and_metrics_hold_no_secret_symbol_or_row(guarded: Guarded) -> None:
    with proxist.connect(guarded.endpoints["query"][0]["flight"], token=guarded.tokens["wrong tenant"]) as connection:
        connection.table(CANARY_TABLE).write(rows(CANARY_SYMBOL))
        connection.table(CANARY_TABLE).last_by([CANARY_SYMBOL])
        with pytest.raises(proxist.errors.ProxistError):
            connection.sql(f"SELECT nocolumn FROM {CANARY_TABLE} WHERE symbol = '{CANARY_SYMBOL}'")
    hidden = [*guarded.secrets, CANARY_SYMBOL, str(guarded.tokens["internal"])]
    files = [*(guarded.cluster.data_dir / "logs").glob("*.log"), guarded.cluster.data_dir / "up.log"]
    services = [f for f in files if not f.name.startswith(("etcd", "clickhouse"))]
    texts = {file.name: file.read_text(errors="replace") for file in services}
    token = guarded.tokens["cluster"]
    for role in ("query", "ingest", "persister", "controlplane"):
        node = guarded.endpoints[role]
        url = (node[0] if isinstance(node, list) else node)["http"] + "/metrics"
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            metrics = answer.read().decode()
        assert "proxist_" in metrics
        assert str(guarded.cluster.data_dir) not in metrics
        assert str(guarded.cluster.run_dir) not in metrics
        texts[f"metrics of {role}"] = metrics
    for where, text in texts.items():
        for canary in hidden:
            assert canary not in text, where
    refused = [json.loads(line) for line in texts["query-0.log"].splitlines() if '"refused"' in line]
    assert refused
    assert all(line.keys() >= {"entry", "caller", "outcome"} for line in refused)


def test_what_is_kept_of_a_token_is_a_hash(guarded: Guarded) -> None:
    kept = b"".join(kv.value for kv in guarded.etcd.range("/")[0])
    for secret in guarded.secrets:
        assert secret.encode() not in kept


def test_the_attach_socket_tells_strangers_nothing(guarded: Guarded) -> None:
    for who in ("none", "admin", "reader"):
        doors = Doors(guarded.endpoints, guarded.tokens[who], "", TABLE, shard=10**6)
        there = Doors(guarded.endpoints, guarded.tokens[who], "", TABLE, shard=1)
        path = guarded.endpoints["ingest"][0]["attach"]
        assert doors.attach(path) == there.attach(path)
