"""structlog, set up once per process: one line per event on stderr, JSON unless stderr is a terminal.

A line that is written inside a span has its `trace_id` and `span_id`. Lines of libraries that use Python's own logging
have the same form. What must not stand in a log is taken out of every line, whoever wrote it: passwords in addresses,
tokens, and this machine's paths, which become `<data_dir>/…`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from proxist.telemetry import scrub, tracing

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str, *, hide: Mapping[str, Path] | None = None, **fields: str) -> None:
    """Log events of at least `level` to stderr; `fields` (role, name) stand in every line. Of the directories in `hide`
    lines say only the name."""
    threshold = getattr(logging, level.upper())
    terminal = sys.stderr.isatty()
    scrubber = scrub.hide(hide or {})

    def add_fields(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Context variables do not cross threads, so the process-wide fields are a processor."""
        for key, value in fields.items():
            event.setdefault(key, value)
        return event

    def clean(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {key: scrubber.value(value) for key, value in event.items()}

    shared: list[Any] = [
        add_fields,
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [format_exception, clean, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if terminal
        else [format_exception, clean, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    # Libraries that log by themselves (uvicorn, grpc, urllib3) speak only when something is wrong.
    handler = logging.StreamHandler(sys.stderr)
    without_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[without_meta, *last])
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[handler], force=True)


def add_trace(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The current span's ids, where there is one."""
    ids = tracing.log_ids()
    if ids is not None:
        event["trace_id"], event["span_id"] = ids
    return event


def format_exception(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """structlog's traceback without the values in messages: an exception of a library may quote a row."""
    event = structlog.processors.format_exc_info(logger, method, event)
    if isinstance(found := event.get("exception"), str):
        lines = (line if line.startswith("  ") else scrub.without_quoted(line) for line in found.split("\n"))
        event["exception"] = "\n".join(lines)
    return event
