"""The one table between our errors and the statuses of Flight, gRPC and the shell, and both ways across the wire.

On the wire an error is `ProxistError.to_json` as UTF-8: Flight carries it as the status's extra info, gRPC as the
trailing metadata `proxist-error-bin`. So a client raises the class that the server raised; a client of another
language still gets a status and the message. What is not one of our errors leaves as InternalError with a fixed text
and an id under which the log has the traceback: no traceback, path or secret reaches a client.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxist import errors
from proxist.errors import ProxistError
from proxist.rpc import handshake
from proxist.telemetry import scrub

if TYPE_CHECKING:
    import grpc
    from pyarrow import flight

METADATA_KEY = "proxist-error-bin"
MESSAGE_CHARS_MAX = 2_000
DETAILS_BYTES_MAX = 2_000
"""Together they stay below gRPC's default limit of 8 KiB for all metadata of a call, in which bytes count 4/3."""


@dataclass(frozen=True, slots=True)
class Status:
    """`flight` is a class of pyarrow.flight, `grpc` a name of grpc.StatusCode, `exit_code` one of sysexits.h."""

    flight: str
    grpc: str
    exit_code: int


_CALLER = "FlightServerError"
TABLE: dict[type[ProxistError], Status] = {
    errors.ProxistError: Status("FlightInternalError", "UNKNOWN", 70),
    errors.CallerError: Status(_CALLER, "INVALID_ARGUMENT", 64),
    errors.InvalidArgument: Status(_CALLER, "INVALID_ARGUMENT", 64),
    errors.SchemaMismatch: Status(_CALLER, "INVALID_ARGUMENT", 65),
    errors.InvalidBatch: Status(_CALLER, "INVALID_ARGUMENT", 65),
    errors.UnsupportedType: Status(_CALLER, "INVALID_ARGUMENT", 65),
    errors.BatchTooLarge: Status(_CALLER, "INVALID_ARGUMENT", 65),
    errors.NotFound: Status(_CALLER, "NOT_FOUND", 66),
    errors.AlreadyExists: Status(_CALLER, "ALREADY_EXISTS", 73),
    errors.ProducerGap: Status(_CALLER, "FAILED_PRECONDITION", 65),
    errors.ProducerConflict: Status(_CALLER, "FAILED_PRECONDITION", 65),
    errors.TokenLost: Status(_CALLER, "DATA_LOSS", 65),
    errors.PermissionDenied: Status("FlightUnauthorizedError", "PERMISSION_DENIED", 77),
    errors.Unauthenticated: Status("FlightUnauthenticatedError", "UNAUTHENTICATED", 77),
    errors.OperatorError: Status(_CALLER, "FAILED_PRECONDITION", 78),
    errors.ConfigError: Status(_CALLER, "FAILED_PRECONDITION", 78),
    errors.PortTaken: Status(_CALLER, "FAILED_PRECONDITION", 71),
    errors.DirectoryLocked: Status(_CALLER, "FAILED_PRECONDITION", 73),
    errors.LogCorrupt: Status(_CALLER, "DATA_LOSS", 74),
    errors.Paused: Status(_CALLER, "FAILED_PRECONDITION", 75),
    errors.TransientError: Status("FlightUnavailableError", "UNAVAILABLE", 75),
    errors.Unavailable: Status("FlightUnavailableError", "UNAVAILABLE", 69),
    errors.NotOwner: Status("FlightUnavailableError", "UNAVAILABLE", 69),
    errors.Overloaded: Status("FlightUnavailableError", "RESOURCE_EXHAUSTED", 75),
    errors.SpoolFull: Status("FlightUnavailableError", "RESOURCE_EXHAUSTED", 75),
    errors.Stale: Status("FlightUnavailableError", "UNAVAILABLE", 75),
    errors.DeadlineExceeded: Status("FlightTimedOutError", "DEADLINE_EXCEEDED", 75),
    errors.InternalError: Status("FlightInternalError", "INTERNAL", 70),
}


def status_of(error: ProxistError) -> Status:
    """The row of the error's class; of its nearest base for a class that a plug-in derived."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def exit_code(error: ProxistError) -> int:
    """What a program that ends with this error returns to its shell (sysexits.h)."""
    return status_of(error).exit_code


def to_proxist(error: BaseException) -> ProxistError:
    """Ours unchanged; anything else logged with its traceback under a fresh id and replaced by a fixed text."""
    if isinstance(error, ProxistError):
        return error
    if isinstance(error, MemoryError):
        return errors.Overloaded("The process is out of memory. Ask for less at a time, or give it more memory.")
    import structlog  # here: the SDK's base install has none, and only servers come this far

    error_id = secrets.token_hex(4)
    structlog.get_logger("proxist.rpc").error("internal error", error_id=error_id, exc_info=error)
    return errors.InternalError(
        f"Internal error {error_id}. The server's log has its cause under that id; please report it.", error_id=error_id
    )


def outward(error: ProxistError) -> dict[str, Any]:
    """`to_json` as a client may see it: without credentials and places on this machine, and within the limits above: a
    longer message is cut, larger details are left out."""
    wire = error.to_json()
    wire["message"] = wire["message"][: 2 * MESSAGE_CHARS_MAX]  # of more than is sent: what is hidden may be shorter
    details = wire.get("details")
    if details is not None and len(json.dumps(details, default=str)) > DETAILS_BYTES_MAX:
        del wire["details"]
    shown: dict[str, Any] = scrub.own().value(wire, outward=True)
    return {**shown, "message": _cut(shown["message"])}


def encode(error: ProxistError) -> bytes:
    """The wire form: `outward` as UTF-8."""
    return json.dumps(outward(error), ensure_ascii=False, default=str).encode()


def decode(wire: bytes) -> ProxistError | None:
    """The inverse of `encode`; None where the bytes are not ours."""
    try:
        fields = json.loads(wire)
    except ValueError:
        return None
    return errors.from_json(fields) if isinstance(fields, dict) and "code" in fields else None


def flight_error(error: BaseException) -> flight.FlightError:
    """What a Flight handler raises, always `from None`."""
    from pyarrow import flight

    ours = to_proxist(error)
    cls = getattr(flight, status_of(ours).flight)
    return cls(outward(ours)["message"], encode(ours))


def from_flight(error: BaseException, subject: str) -> ProxistError:
    """What a Flight client raises: the server's class where it sent one, else by status. `subject` names the server."""
    if isinstance(error, ProxistError):
        return error
    if ours := decode(getattr(error, "extra_info", None) or b""):
        return ours
    return _foreign(type(error).__name__, _first_line(error), subject, secure=subject.startswith("grpc+tls://"))


def grpc_status(error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, details and trailing metadata with which a gRPC handler aborts."""
    import grpc

    ours = to_proxist(error)
    code = grpc.StatusCode[status_of(ours).grpc]
    return code, outward(ours)["message"], ((METADATA_KEY, encode(ours)),)


def from_grpc(error: Any, subject: str, *, secure: bool = False) -> ProxistError:
    """What a gRPC client raises for an RpcError that is also a Call. `subject` names the server; `secure`: called with
    TLS."""
    if isinstance(error, ProxistError):
        return error
    for key, value in error.trailing_metadata() or ():
        if key == METADATA_KEY and (ours := decode(value)):
            return ours
    return _foreign(error.code().name, error.details() or "", subject, secure=secure)


_FOREIGN: dict[str, type[ProxistError]] = {
    "FlightUnavailableError": errors.Unavailable,
    "UNAVAILABLE": errors.Unavailable,
    "FlightTimedOutError": errors.DeadlineExceeded,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "FlightCancelledError": errors.Unavailable,
    "CANCELLED": errors.Unavailable,
    "FlightUnauthenticatedError": errors.Unauthenticated,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "FlightUnauthorizedError": errors.PermissionDenied,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "RESOURCE_EXHAUSTED": errors.Overloaded,
    "ArrowInvalid": errors.InvalidArgument,
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "NOT_FOUND": errors.NotFound,
    "ArrowNotImplementedError": errors.InvalidArgument,
    "UNIMPLEMENTED": errors.InvalidArgument,
}


def _foreign(status: str, text: str, subject: str, *, secure: bool) -> ProxistError:
    """For statuses that no Proxist handler made: the transport's own, or a peer that is not Proxist."""
    cls = _FOREIGN.get(status, errors.InternalError)
    if cls is errors.Unavailable and (meaning := handshake.explain(text, secure=secure)):
        said = f"The handshake with {subject} failed ({text}). {meaning}"
        return cls(said, retry_after_s=0.2, reason=handshake.REASON)
    if cls is errors.Unavailable:
        return cls(f"{subject} does not answer ({text}). Is it running and reachable?", retry_after_s=0.2)
    if cls is errors.DeadlineExceeded:
        return cls(f"{subject} did not answer within the deadline. Raise the timeout, or ask for less.")
    return cls(f"{subject} answered {status}: {text}")


def _first_line(error: BaseException) -> str:
    """pyarrow appends gRPC's debug context, in which the same text stands twice more."""
    text = str(error).split("\n", 1)[0].split(". gRPC client debug context", 1)[0]
    return _cut(text.removeprefix("Flight returned unavailable error, with message: "))


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 1] + "…"
