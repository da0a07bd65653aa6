"""structlog, set up once per process: one line per event on stderr, JSON unless stderr is a terminal.

A line that is written inside a span has its `trace_id` and `span_id`. Lines of libraries that use Python's own logging
have the same form. What must not stand in a log is taken out of every line, whoever wrote it: passwords in addresses,
tokens, and this machine's paths, which become `<data_dir>/…`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from proxist.telemetry import tracing

LEVELS = ("debug", "info", "warning", "error")
_SECRETS = (
    (re.compile(r"\b(px_[A-Za-z0-9]{1,64})_[A-Za-z0-9_-]{8,}"), r"\1_***"),
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/]+@"), r"\1:***@"),
    (re.compile(r"(?i)\b(authorization|bearer|password|secret|token)(['\"]?\s*[:=]\s*['\"]?)[^\s'\",;]+"), r"\1\2***"),
)
_PACKAGES = re.compile(r"(?:/[^\s/\"':]+)+/(?=(?:proxist|proxist_\w+|site-packages|python3\.\d+)/)")
"""Before a file of ours or of a library, in a traceback."""


def configure(level: str, *, hide: Mapping[str, Path] | None = None, **fields: str) -> None:
    """Log events of at least `level` to stderr; `fields` (role, name) stand in every line. Of the directories in `hide`
    lines say only the name."""
    threshold = getattr(logging, level.upper())
    terminal = sys.stderr.isatty()
    scrub = Scrubber(hide or {})

    def add_fields(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Context variables do not cross threads, so the process-wide fields are a processor."""
        for key, value in fields.items():
            event.setdefault(key, value)
        return event

    shared: list[Any] = [
        add_fields,
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [scrub, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if terminal
        else [structlog.processors.format_exc_info, scrub, structlog.processors.JSONRenderer(default=str)]
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


def without_secrets(text: str) -> str:
    """For what is written beside the log."""
    return Scrubber({}).text(text)


class Scrubber:
    """A processor that takes secrets and this machine's paths out of an event."""

    def __init__(self, hide: Mapping[str, Path]) -> None:
        # The longest first: a run directory may lie in the data directory.
        found = sorted(((str(path.absolute()), name) for name, path in hide.items()), reverse=True)
        self._paths = [(path, f"<{name}>") for path, name in found if len(path) > 1]

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {key: self._value(value) for key, value in event.items()}

    def text(self, text: str) -> str:
        """`text` without what must not be told."""
        for path, name in self._paths:
            text = text.replace(path, name)
        text = _PACKAGES.sub("", text)
        for pattern, instead in _SECRETS:
            text = pattern.sub(instead, text)
        return text

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Path):
            return self.text(str(value))
        if isinstance(value, Mapping):
            return {key: self._value(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(one) for one in value]
        return value
