"""The embedded server, with TLS as without, and a real one, where there is one, pass the same suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_conformance import CHECKS
from proxist.testing.clickhouse_store import Store
from proxist.testing.tls import DevCerts


@pytest.fixture(scope="module")
def embedded_store(embedded: LocalClickHouse) -> Iterator[Store]:
    store = Store.connect(embedded.url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def tls_store(tls_embedded: LocalClickHouse, certs: DevCerts) -> Iterator[Store]:
    store = Store.connect(tls_embedded.url, certs.server)
    yield store
    store.close()


@pytest.fixture(scope="module")
def real_store(real_url: str) -> Iterator[Store]:
    store = Store.connect(real_url)
    yield store
    store.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_embedded_server_conforms(embedded_store: Store, check: Callable[[Store], None]) -> None:
    check(embedded_store)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_embedded_server_conforms_over_tls(tls_store: Store, check: Callable[[Store], None]) -> None:
    check(tls_store)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_real_server_conforms(real_store: Store, check: Callable[[Store], None]) -> None:
    check(real_store)
