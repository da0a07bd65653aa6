"""Every error that Proxist raises, as one tree; the branch says who must act.

    ProxistError
    ├─ CallerError              the request is wrong; repeating it unchanged cannot help
    │  ├─ InvalidArgument       a field, a spec, a query or a batch breaks a rule
    │  │  ├─ SchemaMismatch     the batch's columns are not the table's
    │  │  ├─ InvalidBatch       a value breaks a rule: null time, corrupt offsets, out of range
    │  │  ├─ UnsupportedType    an Arrow type that Proxist does not store
    │  │  └─ BatchTooLarge      split it
    │  ├─ NotFound              unknown table, shard, node
    │  ├─ AlreadyExists         the name is taken by another spec
    │  ├─ ProducerGap           a producer skipped a number
    │  ├─ ProducerConflict      a producer's number came again with other content
    │  ├─ TokenLost             a token names rows that were lost, or that retention removed
    │  └─ PermissionDenied      no right
    │     └─ Unauthenticated    no identity: no token, or one that is not valid
    ├─ OperatorError            somebody must run a command or change a setting
    │  ├─ ConfigError           a setting is unknown, malformed or contradicts another
    │  ├─ PortTaken             another process listens there
    │  ├─ DirectoryLocked       another process owns the data directory
    │  ├─ LogCorrupt            the write-ahead log is damaged where that means loss
    │  └─ Paused                the operation needs something that an operator paused
    ├─ TransientError           nobody: try again, after `retry_after_s` where it is set
    │  ├─ Unavailable           a service, a shard or a store does not answer
    │  │  └─ NotOwner           this node does not own the shard (any more)
    │  ├─ Overloaded            a bound on memory, disk or queue is reached
    │  │  └─ SpoolFull          a client's store-and-forward directory is
    │  ├─ Stale                 the freshness that was asked for was not reached in time
    │  └─ DeadlineExceeded      out of time
    └─ InternalError            a bug: nothing the caller or operator did

A message has four parts: the subject, the value, the rule, and the remedy. `code` is stable and part of the public
surface; `proxist.rpc.status` maps each class to a Flight and a gRPC status and back, so a client raises the class
that the server raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class ProxistError(Exception):
    """Root of the tree.

    `message` is one or two sentences; `retry_after_s` is a hint in seconds or None; `details` are plain JSON values
    (a shard, an offset, a file) that a program may act on.
    """

    code: ClassVar[str] = "ERROR"

    def __init__(self, message: str, *, retry_after_s: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details

    def to_json(self) -> dict[str, Any]:
        """The error's one wire form: `{"code", "message", "retry_after_s"?, "details"?}`."""
        out: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.retry_after_s is not None:
            out["retry_after_s"] = self.retry_after_s
        if self.details:
            out["details"] = self.details
        return out


class CallerError(ProxistError):
    code = "CALLER"


class InvalidArgument(CallerError):
    code = "INVALID_ARGUMENT"


class SchemaMismatch(InvalidArgument):
    code = "SCHEMA_MISMATCH"


class InvalidBatch(InvalidArgument):
    code = "INVALID_BATCH"


class UnsupportedType(InvalidArgument):
    code = "UNSUPPORTED_TYPE"


class BatchTooLarge(InvalidArgument):
    code = "BATCH_TOO_LARGE"


class NotFound(CallerError):
    code = "NOT_FOUND"


class AlreadyExists(CallerError):
    code = "ALREADY_EXISTS"


class ProducerGap(CallerError):
    code = "PRODUCER_GAP"


class ProducerConflict(CallerError):
    code = "PRODUCER_CONFLICT"


class TokenLost(CallerError):
    code = "TOKEN_LOST"


class PermissionDenied(CallerError):
    code = "PERMISSION_DENIED"


class Unauthenticated(PermissionDenied):
    """Details: `reason`: "missing", "invalid", "expired" or "revoked"."""

    code = "UNAUTHENTICATED"


class OperatorError(ProxistError):
    code = "OPERATOR"


class ConfigError(OperatorError):
    code = "CONFIG"


class PortTaken(OperatorError):
    code = "PORT_TAKEN"


class DirectoryLocked(OperatorError):
    code = "DIRECTORY_LOCKED"


class LogCorrupt(OperatorError):
    """Details: `path`, `position` (byte in the file), `cause`, `lost_first` and `lost_end` (offsets, where known)."""

    code = "LOG_CORRUPT"


class Paused(OperatorError):
    code = "PAUSED"


class TransientError(ProxistError):
    code = "TRANSIENT"


class Unavailable(TransientError):
    """Details: `reason` is "handshake" where it is known that the other side is there and TLS failed."""

    code = "UNAVAILABLE"


class NotOwner(Unavailable):
    code = "NOT_OWNER"


class Overloaded(TransientError):
    code = "OVERLOADED"


class SpoolFull(Overloaded):
    """Details: `bytes`, `bytes_max`. Raised in the client alone."""

    code = "SPOOL_FULL"


class Stale(TransientError):
    code = "STALE"


class DeadlineExceeded(TransientError):
    code = "DEADLINE_EXCEEDED"


class InternalError(ProxistError):
    code = "INTERNAL"


def _tree(root: type[ProxistError]) -> Iterator[type[ProxistError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_classes() -> dict[str, type[ProxistError]]:
    """Every class of the tree by its code."""
    return {cls.code: cls for cls in _tree(ProxistError)}


def from_json(wire: dict[str, Any]) -> ProxistError:
    """The inverse of `ProxistError.to_json`; a code from a newer server becomes the nearest thing, InternalError."""
    cls = error_classes().get(str(wire.get("code")), InternalError)
    return cls(str(wire.get("message", "")), retry_after_s=wire.get("retry_after_s"), **(wire.get("details") or {}))
