"""An operator's look at one shard in ClickHouse, and its repair, as streams of events for the servicer."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import structlog

from proxist.errors import TransientError
from proxist.model.ids import Offset
from proxist.pb import persister_pb2 as pb
from proxist_persister.audit import Finding
from proxist_persister.owner import Owner
from proxist_persister.repair import Repair, Step
from proxist_persister.verification import Checked, Progress, Subject, Verification, remedy
from proxist_persister.worker import ShardWorker, Tools

_log = structlog.get_logger("proxist.persister")


def verify(tools: Tools, worker: ShardWorker, first: Offset | None, end: Offset | None) -> Iterator[pb.VerifyEvent]:
    """One round: progress, findings with their remedies, and how much was looked at."""
    with _subject(tools, worker) as subject:
        yield from _round(tools, subject, first, end, [])


def repair(tools: Tools, worker: ShardWorker, *, execute: bool) -> Iterator[pb.VerifyEvent]:
    """A round, then the steps. With `execute` each is taken, told as `done`, and a second round says what is left."""
    with _subject(tools, worker) as subject:
        found: list[Finding] = []
        checked = yield from _round(tools, subject, None, None, found)
        job = Repair(tools.sink, subject, worker.check_holds)
        plan = job.plan(found, checked.held)
        for step in plan:
            yield _step(subject, step)
        if not (execute and plan):
            return
        for step in plan:
            _log.info("repairing", table=subject.table.name, shard=subject.shard, action=step.action, rows=step.rows)
            yield _step(subject, job.take(step))
        yield from _round(tools, subject, None, None, [])


@contextmanager
def _subject(tools: Tools, worker: ShardWorker) -> Iterator[Subject]:
    table, shard = worker.table, worker.shard
    record = tools.catalog.owner(shard)
    node = tools.catalog.node(record.node) if record is not None else None
    logs = tuple(tools.catalog.shard(shard).logs)
    if record is not None and node is not None:
        with Owner(shard, record, node) as owner:
            persisted = _persisted(owner)
            if persisted is not None:
                yield Subject(table, shard, logs, persisted, owner)
                return
    mark = tools.catalog.watermark(shard)
    yield Subject(table, shard, logs, mark.persisted if mark is not None else Offset(0), None)


def _persisted(owner: Owner) -> Offset | None:
    """None where it does not answer, or is the owner no more."""
    try:
        return owner.marks().persisted
    except TransientError:
        return None


def _round(
    tools: Tools, subject: Subject, first: Offset | None, end: Offset | None, found: list[Finding]
) -> Generator[pb.VerifyEvent, None, Checked]:
    """The events of one verification; its findings are added to `found`. Returns its Checked. Raises OperatorError where
    the table is gone from ClickHouse though rows of it were persisted; one that was just made is made there now."""
    tools.sink.prepare(subject.table, was_persisted=subject.persisted > 0)
    for event in Verification(tools.sink.clickhouse, subject, first, end):
        if isinstance(event, Progress):
            yield pb.VerifyEvent(
                progress=pb.Progress(shard=subject.shard, stage=event.stage, rows=event.rows, of=event.of)
            )
        elif isinstance(event, Finding):
            found.append(event)
        else:
            for one in found:
                yield _finding(subject, one, event)
            yield _checked(subject, event)
            return event
    raise AssertionError("a verification ends with Checked")


def _finding(subject: Subject, found: Finding, checked: Checked) -> pb.VerifyEvent:
    wire = pb.Finding(
        kind=found.kind,
        shard=subject.shard,
        log=found.log,
        first=found.first,
        last=found.last,
        rows=found.rows,
        columns=found.columns,
        remedy=remedy(found, subject.table, checked.held),
    )
    return pb.VerifyEvent(finding=wire)


def _step(subject: Subject, step: Step) -> pb.VerifyEvent:
    where = f"offsets {step.first} to {step.last}" if not step.statement else step.statement
    wire = pb.Step(
        shard=subject.shard,
        action=step.action,
        what=where,
        rows=step.rows,
        rewritten=step.rewritten,
        done=step.done,
    )
    return pb.VerifyEvent(step=wire)


def _checked(subject: Subject, checked: Checked) -> pb.VerifyEvent:
    bounds = {"from": checked.first, "to": checked.end}
    wire = pb.Checked(shard=subject.shard, rows=checked.rows, compared=checked.compared, note=checked.note, **bounds)
    return pb.VerifyEvent(checked=wire)
