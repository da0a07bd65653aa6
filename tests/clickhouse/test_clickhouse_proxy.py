"""The faulty proxy: what a client sees of each fault, and what the server has done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxist.clickhouse import ClickHouse, table_name
from proxist.errors import ProxistError, Unavailable
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_proxy import ClickHouseProxy, Fault, kind_of
from proxist.testing.clickhouse_store import Store, rows_of

ANSWER_S = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[LocalClickHouse]:
    with LocalClickHouse() as server:
        yield server


@pytest.fixture
def store(server: LocalClickHouse) -> Iterator[Store]:
    """Straight to the server."""
    store = Store.connect(server.url)
    yield store
    store.close()


@pytest.fixture
def proxy(server: LocalClickHouse) -> Iterator[ClickHouseProxy]:
    with ClickHouseProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: ClickHouseProxy) -> Iterator[ClickHouse]:
    client = ClickHouse(proxy.url, answer_timeout_s=ANSWER_S)
    yield client
    client.close()


def count(store: Store, table: str) -> int:
    return int(store.clickhouse.query(f"SELECT count() AS n FROM {table}")["n"][0].as_py())


@pytest.mark.parametrize(
    ("fault", "outcome", "applied"),
    [
        (None, "ok", 10),
        (Fault.OK_WITHOUT_APPLY, "ok", 0),
        (Fault.ERROR_BEFORE_APPLY, "failed", 0),
        (Fault.ERROR_AFTER_APPLY, "unknown", 10),
        (Fault.TIMEOUT_BEFORE_APPLY, "unknown", 0),
        (Fault.TIMEOUT_AFTER_APPLY, "unknown", 10),
        (Fault.RESET_BEFORE_APPLY, "unknown", 0),
        (Fault.RESET_AFTER_APPLY, "unknown", 10),
    ],
)
def test_an_insert_meets_a_fault(
    store: Store, proxy: ClickHouseProxy, client: ClickHouse, fault: Fault | None, outcome: str, applied: int
) -> None:
    table = store.table()
    proxy.inject("insert", fault)
    try:
        client.insert(table, rows_of(table, 10), "token")
        seen = "ok"
    except ProxistError as error:
        seen = error.details["outcome"]
    assert (seen, count(store, table_name(table))) == (outcome, applied)
    assert dict(proxy.faults) == ({} if fault is None else {("insert", fault): 1})
    assert proxy.applied["insert"] == (1 if applied else 0)


def test_a_stalled_insert_lands_when_it_is_released(store: Store, proxy: ClickHouseProxy, client: ClickHouse) -> None:
    table = store.table()
    proxy.inject("insert", Fault.STALL)
    with pytest.raises(Unavailable):
        client.insert(table, rows_of(table, 10), "token")
    proxy.wait_stalled(1)
    assert count(store, table_name(table)) == 0
    proxy.release()
    proxy.wait_applied("insert", 1)
    assert count(store, table_name(table)) == 10


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE_APPLY, Fault.TIMEOUT_AFTER_APPLY, Fault.SHORT_ANSWER])
def test_a_read_that_meets_a_fault_fails(
    store: Store, proxy: ClickHouseProxy, client: ClickHouse, fault: Fault
) -> None:
    table = store.table()
    store.clickhouse.insert(table, rows_of(table, 1000), "token")
    proxy.inject("select", fault)
    with pytest.raises(ProxistError):
        client.query(f"SELECT * FROM {table_name(table)}")
    assert proxy.faults["select", fault] == 1
    assert client.query(f"SELECT * FROM {table_name(table)}").num_rows == 1000


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER_APPLY, Fault.HALF_ANSWER])
def test_a_read_whose_connection_breaks_is_repeated_or_fails_and_never_has_fewer_rows(
    store: Store, proxy: ClickHouseProxy, client: ClickHouse, fault: Fault
) -> None:
    """clickhouse-connect repeats a read over a kept connection that broke, once."""
    table = store.table()
    store.clickhouse.insert(table, rows_of(table, 1000), "token")
    proxy.inject("select", fault)
    assert client.query(f"SELECT * FROM {table_name(table)}").num_rows == 1000
    proxy.inject("select", fault, fault)
    with pytest.raises(Unavailable):
        client.query(f"SELECT * FROM {table_name(table)}")
    assert proxy.faults["select", fault] == 3


def test_a_chooser_is_asked_where_nothing_is_injected(store: Store, proxy: ClickHouseProxy, client: ClickHouse) -> None:
    table = store.table()
    proxy.choose = lambda kind: Fault.OK_WITHOUT_APPLY if kind == "insert" else None
    proxy.inject("insert", None)
    for n in range(3):
        client.insert(table, rows_of(table, 1, first=n), f"token {n}")
    assert count(store, table_name(table)) == 1
    assert proxy.statements["insert"] == 3


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/?query=INSERT+INTO+t+FORMAT+ArrowStream", b"\xff\xff", "insert"),
        ("/", b"SELECT * FROM default.t", "select"),
        ("/", b"SELECT count() FROM system.tables", "other"),
        ("/", b"SELECT version(), timezone()", "other"),
        ("/", b"OPTIMIZE TABLE t FINAL", "other"),
        ("/ping", b"", "other"),
    ],
)
def test_statements_are_told_apart(path: str, body: bytes, kind: str) -> None:
    assert kind_of(path, body) == kind
