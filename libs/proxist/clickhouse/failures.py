"""What clickhouse-connect raises, as Proxist's errors.

Every error of a statement says in `details`: `outcome`, which is "none" (the statement cannot have had an effect),
"failed" (ClickHouse refused it) or "unknown" (it may have happened: read back before repeating an insert), and,
where ClickHouse answered, its error's `clickhouse_code` and `clickhouse_name`.
"""

from __future__ import annotations

import re
from typing import Any

from clickhouse_connect.driver.exceptions import Error
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from proxist.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    ProxistError,
    Unavailable,
)

_NOT_FOUND = {"UNKNOWN_TABLE", "UNKNOWN_DATABASE"}
_OUT_OF_TIME = {"TIMEOUT_EXCEEDED", "QUERY_WAS_CANCELLED", "QUERY_WAS_CANCELLED_BY_CLIENT"}
_OVERLOADED = {
    "TOO_MANY_PARTS", "MEMORY_LIMIT_EXCEEDED", "TOO_MANY_SIMULTANEOUS_QUERIES", "TOO_MANY_ROWS_OR_BYTES",
    "TOO_MANY_ROWS", "TOO_MANY_BYTES", "SERVER_OVERLOADED", "NOT_ENOUGH_SPACE", "QUOTA_EXCEEDED",
    "TOO_MANY_UNEXPECTED_DATA_PARTS",
}  # fmt: skip
_UNAVAILABLE = {
    "NETWORK_ERROR", "SOCKET_TIMEOUT", "ALL_CONNECTION_TRIES_FAILED", "TABLE_IS_READ_ONLY", "KEEPER_EXCEPTION",
    "NO_ZOOKEEPER", "ABORTED", "UNFINISHED", "CANNOT_SCHEDULE_TASK", "NO_REPLICA_HAS_PART", "UNKNOWN_STATUS_OF_INSERT",
    "NO_ACTIVE_REPLICAS", "REPLICA_IS_NOT_IN_QUORUM", "TOO_FEW_LIVE_REPLICAS", "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    "AUTHENTICATION_FAILED", "REQUIRED_PASSWORD", "READONLY", "CANNOT_ALLOCATE_MEMORY", "UNKNOWN_EXCEPTION",
}  # fmt: skip
_UNKNOWN_OUTCOME = {"UNKNOWN_STATUS_OF_INSERT", "TIMEOUT_EXCEEDED", "NETWORK_ERROR", "KEEPER_EXCEPTION", "ABORTED"}
_MESSAGE = re.compile(
    r"(?:Code: \d+\. )?(?:DB::Exception: )?(.*?)(?:\s*\(version [^)]*(?:\([^)]*\))?\))?\s*$", re.DOTALL
)
_PREFIX = re.compile(r".*?server response: ", re.DOTALL)
_CERTIFICATE_ALERT = re.compile(r"ALERT_(?:\w*CERTIFICATE|UNKNOWN_CA)")
"""Alerts that belong to a handshake, so that the statement behind it was not executed."""
_URL = re.compile(r" \(for url [^)]*\)\s*$")


def from_clickhouse(error: Exception, where: str, *, bounded: bool = False) -> ProxistError:
    """The Proxist error for what a statement raised; `where` is the server's host:port, for the message.

    `bounded`: the caller set the statement a time, so silence is DeadlineExceeded and not Unavailable.
    """
    if isinstance(error, Error) and (error.name or error.code):
        return _answered(error, where)
    if _never_sent(error):
        return Unavailable(
            f"ClickHouse at {where} does not answer. Check that it runs and that `clickhouse` names its HTTP port.",
            retry_after_s=1.0,
            outcome="none",
        )
    if (why := _handshake(error)) is not None:
        return Unavailable(
            f"The TLS handshake with ClickHouse at {where} failed: {why}",
            retry_after_s=1.0,
            outcome="none",
            reason="handshake",
        )
    if bounded and _any_cause(error, ReadTimeoutError):
        return DeadlineExceeded(f"ClickHouse at {where} did not answer in the statement's time.", outcome="unknown")
    return Unavailable(
        f"ClickHouse at {where} broke the connection before it answered, so whether the statement was executed is "
        "not known. Reads may be repeated; an insert is read back first.",
        retry_after_s=1.0,
        outcome="unknown",
    )


def not_connected(error: Exception, where: str, *, secure: bool) -> ProxistError:
    """The same for what was raised before any statement was sent; `secure`: where https was spoken."""
    broken = _any_cause(error, ProtocolError, SSLError) and not _any_cause(error, ReadTimeoutError)
    if broken and _handshake(error) is None:
        remedy = (
            "If it demands a client certificate, set `tls_cert` and `tls_key` to a pair that its authority signed."
            if secure
            else "If it speaks TLS there, `clickhouse` must begin with https://."
        )
        return Unavailable(
            f"ClickHouse at {where} ends new connections without an answer. Check that it runs. {remedy}",
            retry_after_s=1.0,
            outcome="none",
        )
    typed = from_clickhouse(error, where)
    typed.details["outcome"] = "none"
    return typed


def _handshake(error: Exception) -> str | None:
    """What to do about a failed TLS handshake; None where it is not known to be one."""
    said = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            "its certificate is not signed by the authority in `clickhouse_ca` (default `tls_ca`), is over, or is for "
            "another name. Set the authority that signed it, or call it by a name in it."
        )
    if _CERTIFICATE_ALERT.search(said):
        return (
            "it refuses the certificate that it was shown, or wants one. Set `tls_cert` and `tls_key` to a pair that "
            "its authority signed."
        )
    if "WRONG_VERSION_NUMBER" in said:
        return "it does not speak TLS there. Name its HTTPS port in `clickhouse`, or write http://."
    return None


def _answered(error: Error, where: str) -> ProxistError:
    name = error.name or "UNKNOWN"
    outcome = "unknown" if name in _UNKNOWN_OUTCOME else "failed"
    details: dict[str, Any] = {"clickhouse_code": error.code, "clickhouse_name": name, "outcome": outcome}
    text = f"ClickHouse at {where} answered {name}: {_plain_message(str(error))}"
    if name in _NOT_FOUND:
        return NotFound(text, **details)
    if name in _OUT_OF_TIME:
        return DeadlineExceeded(text, **details)
    if name in _OVERLOADED:
        return Overloaded(text, retry_after_s=1.0, **details)
    if name in _UNAVAILABLE:
        return Unavailable(text, retry_after_s=1.0, **details)
    return InvalidArgument(text, **details)


def _plain_message(text: str) -> str:
    """ClickHouse's own sentence: without the client's frame, the server's version and the URL."""
    text = _URL.sub("", _PREFIX.sub("", text, count=1))
    match = _MESSAGE.fullmatch(text.strip())
    return (match[1] if match else text).strip()


def _never_sent(error: BaseException) -> bool:
    """Whether the connection could not even be opened."""
    return _any_cause(error, NewConnectionError, ConnectTimeoutError)


def _any_cause(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    """Whether `error` or anything it came from is one of `kinds`."""
    while error is not None:
        reason = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(reason, kinds):
            return True
        error = error.__cause__ or error.__context__
    return False
