"""One query from its JSON to its answer: the verb's way, the deadline, the cancel, the counters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from proxist.auth.identity import Caller, local_caller
from proxist.auth.seen import Seen
from proxist.clickhouse import ClickHouse
from proxist.errors import DeadlineExceeded, ProxistError, Unavailable
from proxist.model.query import Query, Sql
from proxist.rpc.quick import QuickAnswer
from proxist.seam import Answer, Executor, ReadRules
from proxist.telemetry import tracing
from proxist_query.catalog import NodeCatalog
from proxist_query.cold import Cold
from proxist_query.engine import Engine
from proxist_query.hot import Hot
from proxist_query.metrics import Metrics
from proxist_query.seen import describe, describe_answer, log_slow
from proxist_query.sql import SqlRun


class Runner:
    """Runs queries. Thread-safe."""

    def __init__(
        self,
        catalog: NodeCatalog,
        hot: Hot,
        clickhouse: ClickHouse,
        engine: Engine,
        metrics: Metrics,
        *,
        query_s_max: float,
        slow_query_s: float = 1.0,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.catalog = catalog
        self.hot = hot
        self._clickhouse = clickhouse
        self._cold = Cold(clickhouse)
        self._quick = hot.quick()
        self._engine = engine
        self._metrics = metrics
        self._query_s_max = query_s_max
        self._slow_query_s = slow_query_s
        self._now_ns = now_ns
        self._lock = threading.Lock()  # guards _running
        self._running: dict[Any, list[threading.Event]] = {}

    def run(
        self, query: Query, probes: pa.Table | None, alive: Callable[[], None], caller: Caller | None = None
    ) -> Answer:
        """The answer. `alive` raises when nobody waits for it any more; it is called between the steps.

        Raises every error of the executor and of SQL; DeadlineExceeded past the node's limit; Unavailable after a cancel.
        """
        caller = caller or local_caller()
        began = time.monotonic()
        verb = type(query.verb).__name__.lower()
        known = self._known_to(caller)
        outcome, plan = "INTERNAL", "none"
        answer: Answer | None = None
        self._metrics.began()
        try:
            with self._entry(query.id, caller) as cancelled, tracing.span("query.run") as span:
                describe(span, query, known)
                step = self._step(began + self._query_s_max, cancelled, alive)
                answer = self._answer(query, probes, caller, step, began)
                describe_answer(span, answer)
            outcome, plan = "ok", answer.receipt.plan
            self._metrics.answered(answer.receipt)
            return answer
        except ProxistError as error:
            outcome = error.code
            raise
        finally:
            took_s = time.monotonic() - began
            self._metrics.finished(verb, plan, outcome, took_s)
            if took_s >= self._slow_query_s:
                log_slow(query, known, answer, outcome, took_s)

    def quick(self, text: bytes, alive: Callable[[], None], caller: Caller) -> QuickAnswer | None:
        """The answer to the query `text` + "}" where it needs no executor, counted as every other; None where it needs one.

        Raises what `alive` raises.
        """
        began = time.monotonic()
        alive()
        found = self._quick.answer(text, caller)
        if found is not None:
            took_s = time.monotonic() - began
            self._metrics.answered_quickly("lastby", found.rows.num_rows, took_s)
            if took_s >= self._slow_query_s:
                log_slow(found.query, self._known_to(caller), found.full(), "ok", took_s)
        return found

    def schema(self, query: Query, caller: Caller | None = None) -> pa.Schema:
        """The schema of an SQL query's answer, without running it."""
        assert isinstance(query.verb, Sql)
        caller = caller or local_caller()
        run = self._sql(query, caller, lambda: None, time.monotonic())
        return run.schema(query.verb.text, caller.tenant(), self._now_ns())

    def seen_by(self, caller: Caller) -> Seen:
        """The catalog for one call."""
        return Seen(self.catalog, caller, self.catalog.names)

    def cancel(self, query_id: Any, caller: Caller | None = None) -> bool:
        """End the caller's running queries with that `id` at their next step; whether there was one."""
        with self._lock:
            running = list(self._running.get(_key(query_id, caller or local_caller()), ()))
        for event in running:
            event.set()
        return bool(running)

    def _known_to(self, caller: Caller) -> Callable[[str], bool]:
        tenant = caller.tenant()
        return lambda name: caller.sees(tenant, name) and (tenant, name) in self.catalog.names()

    def _answer(
        self, query: Query, probes: pa.Table | None, caller: Caller, step: Callable[[], None], began: float
    ) -> Answer:
        tenant = caller.tenant()
        if isinstance(query.verb, Sql):
            return self._sql(query, caller, step, began).run(query.verb.text, tenant, self._now_ns())
        executor = Executor(self.seen_by(caller), self.hot.via(query.hot_path), self._cold, step=step)
        return executor.run(query, tenant, probes)

    def _sql(self, query: Query, caller: Caller, step: Callable[[], None], began: float) -> SqlRun:
        return SqlRun(
            self.seen_by(caller),
            self.hot.via(query.hot_path),
            self._clickhouse,
            self._engine,
            ReadRules.of(query),
            step,
            lambda: began + self._query_s_max - time.monotonic(),
        )

    def _step(self, deadline: float, cancelled: threading.Event, alive: Callable[[], None]) -> Callable[[], None]:
        def step() -> None:
            alive()
            if cancelled.is_set():
                raise Unavailable("The query was cancelled.")
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"The query ran longer than {self._query_s_max:g} s, the limit of this node. Ask for fewer rows or "
                    "a shorter range, or raise `query_s_max`."
                )

        return step

    @contextmanager
    def _entry(self, query_id: Any, caller: Caller) -> Iterator[threading.Event]:
        """The query's place in the list of running ones; queries without an id cannot be cancelled by one."""
        event, key = threading.Event(), _key(query_id, caller)
        with self._lock:
            self._running.setdefault(key, []).append(event)
        try:
            yield event
        finally:
            with self._lock:
                self._running[key].remove(event)
                if not self._running[key]:
                    del self._running[key]


def _key(query_id: Any, caller: Caller) -> Any:
    """Ids are the callers' own: nobody ends another one's query."""
    return caller.identity.id, _hashable(query_id)


def _hashable(query_id: Any) -> Any:
    return query_id if isinstance(query_id, str | int | float | bool) else repr(query_id) if query_id else object()
