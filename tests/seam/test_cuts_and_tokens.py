"""Cuts, tokens, freshness and completeness: what an answer may be made of, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from naive_tiers import Row, Tiers, make_tiers

from proxist.errors import InvalidArgument, Stale, TokenLost, Unavailable
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.model.ids import Epoch, Offset, ShardId, log_id
from proxist.model.query import parse_query
from proxist.model.token import Mark, Token
from proxist.seam import Chain, Executor, Log
from proxist.seam.cuts import cold_cut

SCAN = {"scan": {"table": "trades"}}


def ask(made: Tiers, verb: dict[str, Any] = SCAN, **beside: Any) -> Any:
    return Executor(made, made, made).run(parse_query({**verb, **beside}), "default")


def filled(shards: int = 1, rows: int = 10) -> Tiers:
    made = make_tiers(shards)
    for i in range(rows):
        made.write("ABCD"[i % 4], i, i, i)
    return made


def token(**marks: tuple[int, int]) -> str:
    return str(Token({ShardId(int(s[1:])): Mark(Epoch(e), Offset(o)) for s, (e, o) in marks.items()}))


def sealed(end: int, state: str = "sealed") -> tuple[Log, ...]:
    return Log(Epoch(1), Offset(0), Offset(end), state), Log(Epoch(2), Offset(end), None, "open")


def test_hot_only_reads_send_no_cold_statement() -> None:
    made = filled()
    made.move(1, 0, 5)
    for verb in (SCAN, {"last_by": {"table": "trades"}}, {"first_by": {"table": "trades"}}):
        receipt = ask(made, verb).receipt
        assert (receipt.mode, receipt.rows_cold) == ("hot", 0)
    assert made.statements == 0


def test_the_mode_says_which_tiers_gave_rows() -> None:
    made, modes = filled(), []
    for floor in (0, 4, 10):
        made.move(1, floor, 10)
        receipt = ask(made).receipt
        modes.append(receipt.mode)
        assert (receipt.rows_hot, receipt.rows_cold) == (10 - floor, floor)
    assert modes == ["hot", "cold+hot", "cold"]


def test_rows_above_the_seam_in_history_and_lost_tails_are_invisible() -> None:
    made = filled()
    made.move(1, 5, 6)
    ghost = Row("A", 3, 99, 99, 1, 7, 1)
    made.shards[1].logs = list(sealed(7, "abandoned"))
    made.shards[1].stored.append(ghost)
    for row in [r for r in made.shards[1].rows if r.offset >= 7]:
        made.shards[1].rows.remove(row)
        made.shards[1].rows.append(Row(row.symbol, row.ts, row.id, row.price, 1, row.offset, 2))
    made.shards[1].stored = [*made.shards[1].rows, ghost]
    for floor, persisted in ((5, 6), (8, 9), (10, 10)):
        made.move(1, floor, persisted)
        assert ask(made).rows["id"].to_pylist() == list(range(10))


def test_the_cold_cut_is_positive_and_knows_abandoned_tails() -> None:
    chain = Chain(ShardId(3), sealed(7, "abandoned"))
    cut = cold_cut(chain, Epoch(2), Offset(9), Offset(12))
    assert cut is not None
    first, second, later, other = (log_id(ShardId(s), Epoch(e)) for s, e in ((3, 1), (3, 2), (3, 3), (4, 1)))
    assert cut.holds(first, 6)
    assert not cut.holds(first, 7)
    assert cut.holds(second, 8)
    assert not cut.holds(second, 9)
    assert not cut.holds(later, 0)
    assert not cut.holds(other, 0)
    assert cold_cut(chain, Epoch(2), Offset(9), Offset(0)) is None


def test_the_log_of_an_offset_follows_the_chain() -> None:
    logs = (Log(Epoch(1), Offset(0), Offset(4), "sealed"), Log(Epoch(2), Offset(4), Offset(4), "sealed"))
    chain = Chain(ShardId(1), (*logs, Log(Epoch(5), Offset(4), None, "open")))
    assert (chain.log_ids(np.array([0, 3, 4, 9])) & 0xFFFFFF).tolist() == [1, 1, 5, 5]


def test_as_of_needs_every_shard() -> None:
    made = filled(shards=2)
    with pytest.raises(InvalidArgument, match="shard 2"):
        ask(made, as_of=token(s1=(1, 2)))


def test_as_of_gives_the_rows_of_that_instant_later() -> None:
    made = filled()
    then = ask(made)
    made.write("A", -5, 0, 0)
    made.move(1, 11, 11)
    again = ask(made, as_of=str(then.receipt.token))
    assert again.rows.equals(then.rows)
    assert str(again.receipt.token) == str(then.receipt.token)


def test_a_token_above_the_end_of_its_sealed_log_is_lost() -> None:
    made = filled()
    made.shards[1].logs = list(sealed(8))
    for beside in ({"as_of": token(s1=(1, 9))}, {"freshness": {"min_token": token(s1=(1, 9))}}):
        with pytest.raises(TokenLost, match=r"\[8, 9\)") as raised:
            ask(made, **beside)
        assert raised.value.details == {"shard": 1, "lost_first": 8, "lost_end": 9}
    both = {"as_of": token(s1=(1, 9)), "freshness": {"min_token": token(s1=(2, 10))}}
    with pytest.raises(TokenLost, match=r"\[8, 9\)"):  # the later mark, of the next epoch, hides nothing
        ask(made, **both)
    assert ask(made, as_of=token(s1=(1, 8))).rows.num_rows == 8


def test_rows_lost_in_a_fail_over_during_the_read_are_noticed() -> None:
    class FailsOver(Tiers):
        def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Any, wait_ns: int) -> HotPart:
            self.shards[shard].logs = list(sealed(8))
            return super().run(shard, op, probes, min_end, wait_ns)

    made = filled()
    made = FailsOver(made.table_, made.shards)
    with pytest.raises(TokenLost):
        ask(made, freshness={"min_token": token(s1=(1, 9))})


def test_min_token_not_reached_is_stale_unless_hot_will_do() -> None:
    made = filled()
    min_token = token(s1=(1, 12), s9=(1, 1))
    with pytest.raises(Stale) as raised:
        ask(made, freshness={"min_token": min_token, "wait_ms": 0})
    assert raised.value.retry_after_s is not None
    answer = ask(made, freshness={"min_token": min_token, "wait_ms": 0, "on_stale": "hot"})
    assert answer.rows.num_rows == 10
    assert "[10, 12)" in answer.receipt.missing[0]
    with pytest.raises(Stale):
        ask(made, freshness={"wait_ms": 0, "on_stale": "hot"}, as_of=token(s1=(1, 12)))


def test_a_missing_shard_fails_the_query_unless_best_effort() -> None:
    made = filled(shards=2, rows=20)
    made.shards[2].down = True
    with pytest.raises(Unavailable, match="Shard 2"):
        ask(made)
    answer = ask(made, completeness="best_effort")
    assert answer.rows.num_rows == made.shards[1].end
    assert "shard 2 of table 'trades'" in answer.receipt.missing[0]
    assert [cut.shard for cut in answer.receipt.cuts] == [1]


def test_history_that_does_not_answer_fails_the_query_unless_best_effort() -> None:
    class NoHistory(Tiers):
        def read(self, op: Any) -> pa.Table:
            raise Unavailable("ClickHouse does not answer.")

    made = filled()
    made.move(1, 4, 6)
    down = NoHistory(made.table_, made.shards)
    with pytest.raises(Unavailable, match="ClickHouse"):
        ask(down)
    answer = ask(down, completeness="best_effort")
    assert answer.rows.num_rows == 6
    assert "history of table 'trades'" in answer.receipt.missing[0]


def test_without_history_a_query_that_needs_it_names_a_query_node() -> None:
    made = filled()
    executor = Executor(made, made, None, elsewhere=lambda: "Ask grpc://query-0:8815.")
    assert executor.run(parse_query(SCAN), "default").rows.num_rows == 10
    made.move(1, 4, 4)
    with pytest.raises(Unavailable, match="query-0:8815"):
        executor.run(parse_query(SCAN), "default")
    with pytest.raises(InvalidArgument, match="sql"):
        executor.run(parse_query({"sql": "SELECT 1"}), "default")


def test_only_the_shards_of_the_asked_keys_are_read() -> None:
    made = filled(shards=3, rows=12)
    ask(made, {"last_by": {"table": "trades", "keys": ["A"]}})
    assert made.hot_reads == 1


@pytest.mark.parametrize(
    ("probes", "words"),
    [
        (pa.table({"symbol": ["A"]}), "no column 'ts'"),
        (pa.table({"symbol": ["A"], "ts": [1]}), "must be a timestamp"),
        (pa.table({"symbol": [1], "ts": pa.array([1], pa.timestamp("ns"))}), "must be a string"),
        (pa.table({"symbol": pa.array([None], pa.string()), "ts": pa.array([1], pa.timestamp("ns"))}), "1 nulls"),
        (None, "no probe rows"),
    ],
)
def test_wrong_probe_rows_are_refused_by_column(probes: pa.Table | None, words: str) -> None:
    verb = {"asof": {"left": {"probe": True}, "right": {"table": "trades"}}}
    made = filled()
    with pytest.raises(InvalidArgument, match=words):
        Executor(made, made, made).run(parse_query(verb), "default", probes)


def test_an_unknown_column_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="colour"):
        ask(filled(), {"scan": {"table": "trades", "columns": ["colour"]}})
