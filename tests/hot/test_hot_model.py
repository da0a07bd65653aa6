"""The hot set against its naive model: any rows, any order, any eviction, any question."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hot_model import Oracle, batch_of, make_spec, new_hot_set, random_op, random_rows
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxist.hot.reader import HotReader
from proxist.model.ids import Offset

STYLES = ["in order", "late", "ties", "wild", "far", "one key"]


class HotSetMachine(RuleBasedStateMachine):
    """Each rule draws a seed and does something random with it; each invariant asks random questions."""

    @initialize(seq=st.booleans(), values=st.booleans(), keys=st.integers(1, 6), block_rows=st.sampled_from([16, 32]))
    def create(self, seq: bool, values: bool, keys: int, block_rows: int) -> None:
        self.spec = make_spec(seq=seq, values=values)
        self.hot = new_hot_set(self.spec, block_rows=block_rows, hot_bytes=4 * 2**20)
        fd = self.hot.readonly_fd()
        self.readers = [self.hot.reader(), HotReader.attach(fd)]
        os.close(fd)
        self.oracle = Oracle(self.spec)
        self.keys = [f"key{i}" for i in range(keys)]
        self.clock = self.asked = 0

    @rule(seed=st.integers(0, 2**32), count=st.integers(0, 400), style=st.sampled_from(STYLES), publish=st.booleans())
    def append(self, seed: int, count: int, style: str, publish: bool) -> None:
        first = self.hot.appended_end
        rows = random_rows(np.random.default_rng(seed), first, count, self.keys, self.clock, style)
        if not self.spec.seq:
            rows = [type(r)(r.offset, r.key, r.time, 0) for r in rows]
        batch = batch_of(self.spec, rows)
        if not self.hot.has_room(batch):
            return
        self.oracle.add(rows)
        assert self.hot.append(batch, first, 0) == first + count
        self.clock += count // 3
        if publish:
            self.hot.publish(self.hot.appended_end)

    @rule(part=st.floats(0, 1))
    def publish(self, part: float) -> None:
        end = self.hot.marks().end
        self.hot.publish(Offset(end + int((self.hot.appended_end - end) * part)))

    @rule(part=st.floats(0, 1))
    def persist(self, part: float) -> None:
        marks = self.hot.marks()
        self.hot.set_persisted(Offset(marks.persisted + int((marks.end - marks.persisted) * part)))

    @rule(part=st.floats(0, 1), step=st.sampled_from([1, 7, 100, 10**6]))
    def evict(self, part: float, step: int) -> None:
        marks = self.hot.marks()
        target = Offset(marks.floor + int((marks.persisted - marks.floor) * part))
        reached = self.hot.evict_step(target, step)
        assert reached == min(target, marks.floor + step)
        assert self.hot.marks().floor == reached

    @rule(seed=st.integers(0, 2**32), time=st.integers(-100, 1000))
    def floors(self, seed: int, time: int) -> None:
        marks = self.hot.marks()
        resident = self.oracle.rows[marks.floor :]
        expected = min((r.offset for r in resident if r.time >= time), default=marks.persisted)
        assert self.hot.floor_before_time(time) == max(marks.floor, min(expected, marks.persisted))
        assert self.hot.floor_keeping(seed % 100) == max(marks.floor, min(marks.end - seed % 100, marks.persisted))

    @invariant()
    def every_question_is_answered_exactly(self) -> None:
        if not hasattr(self, "hot"):
            return
        self.asked += 1
        rng = np.random.default_rng(self.asked)
        end = self.hot.marks().end
        for _ in range(6):
            op, probes = random_op(rng, self.keys, self.clock, end)
            names = {c.name for c in self.spec.columns}
            if op.columns is not None and not set(op.columns) <= names:
                continue
            part = self.readers[self.asked % 2].run(op, probes)
            assert part.end == (end if op.end is None else min(end, op.end))
            self.oracle.check(part, op, probes)

    @invariant()
    def marks_are_right(self) -> None:
        if not hasattr(self, "hot"):
            return
        marks = self.hot.marks()
        evicted = [r.time for r in self.oracle.rows[: marks.floor]]
        assert marks.evicted_time_max == (max(evicted) if evicted else None)
        accepted = self.oracle.rows[: self.hot.appended_end]
        if marks.t_persisted is not None:
            assert all(r.offset < marks.persisted for r in accepted if r.time <= marks.t_persisted)
        assert (marks.t_persisted is None) == (not accepted)

    def teardown(self) -> None:
        if hasattr(self, "hot"):
            self.hot.close()


TestHotSetMachine = HotSetMachine.TestCase
TestHotSetMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(4))
def test_long_chains_answer_as_the_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = make_spec(seq=seed % 2 == 0, values=False)
    hot, oracle, keys, clock = new_hot_set(spec, block_rows=16, hot_bytes=8 * 2**20), Oracle(spec), ["a", "b", "c"], 0
    reader = hot.reader()
    for turn in range(40):
        style = STYLES[int(rng.integers(0, len(STYLES)))] if seed else "in order"
        rows = random_rows(rng, hot.appended_end, 500, keys, clock, style)
        if not spec.seq:
            rows = [type(r)(r.offset, r.key, r.time, 0) for r in rows]
        oracle.add(rows)
        hot.append(batch_of(spec, rows), hot.appended_end, 0)
        hot.publish(hot.appended_end)
        clock += 166
        if turn % 5 == 4:
            hot.set_persisted(hot.appended_end)
            hot.evict(Offset(int(hot.appended_end * rng.random())))
        for _ in range(8):
            op, probes = random_op(rng, keys, clock, hot.appended_end)
            if op.columns is None or set(op.columns) <= {c.name for c in spec.columns}:
                oracle.check(reader.run(op, probes), op, probes)
    hot.close()
