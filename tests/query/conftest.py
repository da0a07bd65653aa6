"""One ClickHouse process and one engine of this process for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_tiers import RealTiers, real_tiers

from proxist.clickhouse import ClickHouse
from proxist.testing.clickhouse import LocalClickHouse
from proxist_query.engine import Engine


@pytest.fixture(scope="session")
def clickhouse() -> Iterator[ClickHouse]:
    with LocalClickHouse() as server:
        client = server.client()
        yield client
        client.close()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    engine = Engine(2)
    yield engine
    engine.close()


@pytest.fixture
def tiers(clickhouse: ClickHouse, engine: Engine) -> Iterator[RealTiers]:
    with real_tiers(clickhouse, engine) as made:
        yield made
