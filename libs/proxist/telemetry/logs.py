"""structlog, set up once per process: one line per event on stderr, JSON unless stderr is a terminal."""

from __future__ import annotations

import logging
import sys

import structlog

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str, **fields: str) -> None:
    """Log events of at least `level` to stderr; `fields` (role, name) stand in every line."""
    threshold = getattr(logging, level.upper())
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if terminal
            else structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    _context(fields)
    # Libraries that log by themselves (uvicorn, grpc, urllib3) speak only when something is wrong.
    logging.basicConfig(level=max(threshold, logging.WARNING), stream=sys.stderr, force=True)


def _context(fields: dict[str, str]) -> None:
    """Context variables do not cross threads, so the process-wide fields are a processor."""

    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for key, value in fields.items():
            event.setdefault(key, value)
        return event

    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[add, *processors])
