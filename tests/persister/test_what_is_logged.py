"""The persister's log has no row of a user's, whatever ClickHouse says."""

from __future__ import annotations

import pytest

from proxist.errors import InvalidArgument, Overloaded, ProxistError, Unavailable
from proxist_persister.worker import _for_log

CANARY = "CNRYROW4E"


@pytest.mark.parametrize("kind", [InvalidArgument, Overloaded, Unavailable])
def test_of_clickhouses_refusal_the_log_has_the_name_and_not_the_sentence(kind: type[ProxistError]) -> None:
    sentence = f"ClickHouse at h:1 answered VIOLATED_CONSTRAINT: Column values: symbol = '{CANARY}'"
    told = _for_log(kind(sentence, clickhouse_name="VIOLATED_CONSTRAINT", outcome="failed"))
    assert "VIOLATED_CONSTRAINT" in told
    assert CANARY not in told


def test_of_everything_else_the_log_has_the_message() -> None:
    assert _for_log(Unavailable("ClickHouse at h:1 does not answer.")) == "ClickHouse at h:1 does not answer."
