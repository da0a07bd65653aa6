"""The persister's decisions, apart from all I/O."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_owner import make_rows, make_table

from proxist.clickhouse import partition_of, sort_columns
from proxist.errors import InternalError, InvalidArgument, NotFound, OperatorError, Overloaded, Unavailable
from proxist.etcd import LogRecord, TableRecord
from proxist.model.ids import Epoch, Offset, ShardId, log_id
from proxist_persister import batches as batching
from proxist_persister.batches import Batch, inserts, missing_part, read_batch
from proxist_persister.coverage import Stored, anomaly
from proxist_persister.plan import droppable, jobs
from proxist_persister.policy import REFUSALS_MAX, RETRY_S_MAX, SinkHealth, is_final, retry_delay_s

TABLE = make_table("t", (7,))
SHARD = ShardId(7)
LOG = log_id(SHARD, Epoch(1))


def batch_of(first: int, end: int, days: int = 1) -> Batch:
    return read_batch(SHARD, Offset(first), Offset(end), [make_rows(TABLE, SHARD, 1, first, end, days)])


def stored(*rows: tuple[int, int, int]) -> Stored:
    """From (log, offset, copies)."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    names = ("_log", "_offset", "copies")
    return Stored(pa.table({n: pa.array(c, pa.uint64()) for n, c in zip(names, columns, strict=True)}))


@settings(max_examples=60)
@given(first=st.integers(0, 1000), rows=st.integers(1, 300), days=st.integers(1, 5), block=st.integers(1, 400))
def test_every_row_is_in_one_insert_sorted_and_of_one_partition(first: int, rows: int, days: int, block: int) -> None:
    batch = batch_of(first, first + rows, days)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "INSERT_ROWS_MAX", block)
        made = inserts(TABLE.spec, batch)
        again = inserts(TABLE.spec, batch_of(first, first + rows, days))
    assert sorted(int(o) for insert in made for o in insert.offsets) == list(range(first, first + rows))
    assert len({insert.token for insert in made}) == len(made)
    for insert in made:
        assert 1 <= insert.rows.num_rows <= block
        times = insert.rows["ts"].to_numpy().view(np.int64)
        assert {partition_of(int(t)) for t in times} == {insert.partition}
        keys = list(zip(*(insert.rows[c].to_pylist() for c in sort_columns(TABLE.spec)), strict=True))
        assert all(a < b for a, b in pairwise(keys))
    assert [(i.token, i.rows) for i in made] == [(i.token, i.rows) for i in again]


def test_the_token_is_log_range_and_partition() -> None:
    (insert,) = inserts(TABLE.spec, batch_of(10, 20))
    assert insert.token == f"{LOG}:10-20:{insert.partition}"


@pytest.mark.parametrize("bounds", [(0, 9), (1, 11), (0, 11), (5, 5)])
def test_rows_that_are_not_the_batch_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(InternalError):
        read_batch(SHARD, Offset(bounds[0]), Offset(bounds[1]), [make_rows(TABLE, SHARD, 1, 0, 10)])


def test_rows_of_two_logs_or_of_another_shard_are_refused() -> None:
    two = [make_rows(TABLE, SHARD, 1, 0, 5), make_rows(TABLE, SHARD, 2, 5, 10)]
    for parts in (two, [make_rows(TABLE, 8, 1, 0, 10)]):
        with pytest.raises(InternalError):
            read_batch(SHARD, Offset(0), Offset(10), parts)


def test_only_what_is_missing_is_inserted_under_a_token_of_its_own() -> None:
    (insert,) = inserts(TABLE.spec, batch_of(0, 10))
    assert missing_part(insert, stored().missing(LOG, insert.offsets)) is insert
    everything = stored(*((LOG, n, 1) for n in range(10)))
    assert missing_part(insert, everything.missing(LOG, insert.offsets)) is None
    half = missing_part(insert, stored(*((LOG, n, 1) for n in range(4))).missing(LOG, insert.offsets))
    other = missing_part(insert, stored(*((LOG, n, 1) for n in range(5))).missing(LOG, insert.offsets))
    assert half is not None
    assert other is not None
    assert sorted(half.offsets) == list(range(4, 10))
    assert len({insert.token, half.token, other.token}) == 3


def test_another_logs_rows_are_no_cover() -> None:
    (insert,) = inserts(TABLE.spec, batch_of(0, 10))
    other = stored(*((log_id(SHARD, Epoch(2)), n, 1) for n in range(10)))
    assert other.missing(LOG, insert.offsets).all()


LOGS = (
    LogRecord(Epoch(1), Offset(0), Offset(100), "sealed"),
    LogRecord(Epoch(2), Offset(100), Offset(150), "abandoned"),
    LogRecord(Epoch(3), Offset(150), None, "open"),
)


@pytest.mark.parametrize(
    ("epoch", "offset", "copies", "cause"),
    [
        (1, 0, 1, None),
        (1, 99, 1, None),
        (1, 100, 1, "outside of its log"),
        (2, 149, 1, None),
        (2, 160, 1, None),  # the lost tail of an abandoned log: readers know
        (2, 99, 1, "outside of its log"),
        (3, 150, 1, None),
        (3, 199, 1, None),
        (3, 200, 1, "outside of its log"),
        (4, 170, 1, "no log of this id"),
        (3, 150, 2, "stored twice"),
    ],
)
def test_rows_that_no_log_explains_are_found(epoch: int, offset: int, copies: int, cause: str | None) -> None:
    log = log_id(SHARD, Epoch(epoch))
    found = anomaly(stored((log, offset, copies)), SHARD, LOGS, Epoch(3), Offset(200))
    assert (found.cause if found else None) == cause
    if found:
        assert (found.log, found.first, found.last) == (log, offset, offset)


def test_nothing_stored_is_explained() -> None:
    assert anomaly(stored(), SHARD, LOGS, Epoch(3), Offset(200)) is None


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_retries_are_bounded_and_jittered(attempt: int, chance: float) -> None:
    delay_s = retry_delay_s(attempt, chance)
    assert 0 < delay_s <= RETRY_S_MAX
    assert retry_delay_s(attempt, 0.0) <= delay_s


def test_what_cannot_help_itself_stops() -> None:
    assert not is_final(Unavailable("x"), 10**6)
    assert not is_final(Overloaded("x"), 10**6)
    assert not is_final(NotFound("the table is made again"), 10**6)
    assert is_final(OperatorError("x"), 0)
    assert not is_final(InvalidArgument("x"), REFUSALS_MAX - 1)
    assert is_final(InvalidArgument("x"), REFUSALS_MAX)


def test_sink_states() -> None:
    health, second = SinkHealth(), 10**9
    assert health.state(0) == "OK"
    health = health.failed(Unavailable("x"), second)
    assert health.state(second) == "DEGRADED"
    health = health.failed(Unavailable("x"), 3 * second)
    assert (health.state(3 * second), health.state(4 * second)) == ("DEGRADED", "DOWN")
    assert health.succeeded().state(5 * second) == "OK"
    assert SinkHealth().failed(InvalidArgument("its rows"), 0).state(0) == "OK"


def test_jobs_are_the_shards_of_active_tables() -> None:
    a, b, c = make_table("a", (1, 2)), make_table("b", (3,)), make_table("c", (4,))
    plan = jobs([TableRecord(a), TableRecord(b, "active", True), TableRecord(c, "dropping")])
    assert {shard: (job.table.name, job.paused) for shard, job in plan.items()} == {
        1: ("a", False), 2: ("a", False), 3: ("b", True),
    }  # fmt: skip


def test_a_table_is_dropped_once_its_rows_have_stopped() -> None:
    table = make_table("a", (1, 2))
    dropping = [TableRecord(table, "dropping"), TableRecord(make_table("b", (3,)))]

    def nobody(_: ShardId) -> bool:
        return False

    assert droppable(dropping, nobody, nobody) == [table]
    assert droppable(dropping, lambda shard: shard == 2, nobody) == []
    assert droppable(dropping, nobody, lambda shard: shard == 1) == []
