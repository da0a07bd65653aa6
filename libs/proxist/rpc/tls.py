"""TLS of one process: what it shows, whom it trusts, and both in the form each library takes.

The doors of a process and its calls share one certificate. A `Tls` holds paths, not bytes: files are read where they
are used. The gRPC and HTTP doors look whether they changed before every handshake, clients before every call; a Flight
door keeps what it started with.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from proxist.errors import ConfigError

if TYPE_CHECKING:
    import grpc

    from proxist.config import ServiceConfig  # pydantic, which the SDK's base install has not

T = TypeVar("T")


@dataclass(frozen=True)
class Tls:
    """PEM files of one process: what it shows (`cert`, `key`) and whom it trusts (`ca`). Read anew for each use.

    Without `ca` a client trusts what the machine does. Every method raises ConfigError, naming setting and file, where
    a file cannot be read, is no PEM, or the key is not the certificate's.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    clients: Literal["token", "certificate"] = "token"
    """`certificate`: a door demands a client certificate that `ca` signed, beside the token."""

    @property
    def serves(self) -> bool:
        """Whether doors speak TLS."""
        return self.cert is not None and self.key is not None

    @property
    def demands_certificate(self) -> bool:
        """Whether doors refuse callers that show no certificate."""
        return self.serves and self.clients == "certificate"

    @property
    def asked(self) -> bool:
        """Whether calls must speak TLS: whoever gives a file wants that no token goes in clear."""
        return bool(self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.cert, self.key, self.ca) if path is not None)

    def check(self) -> None:
        """Returns where the files can be used now."""
        self._context(ssl.PROTOCOL_TLS_CLIENT)

    def flight_server(self) -> dict[str, Any]:
        """Arguments of FlightServerBase; none where doors speak no TLS."""
        if not self.serves:
            return {}
        self.check()
        pair, ca = self._pair(), self._ca()
        demand = {"verify_client": True, "root_certificates": ca} if self.demands_certificate else {}
        return {"tls_certificates": [pair], **demand}

    def flight_client(self) -> dict[str, Any]:
        """Arguments of flight.connect for a `grpc+tls://` address."""
        self.check()
        cert, key = self._pair()
        given = {"tls_root_certs": self._ca(), "cert_chain": cert, "private_key": key}
        return {name: pem for name, pem in given.items() if pem is not None}

    def grpc_server(self) -> grpc.ServerCredentials:
        """What `add_secure_port` takes: changed files count from the next handshake on. Only where `serves`."""
        import grpc

        def configuration() -> grpc.ServerCertificateConfiguration:
            cert, key = self._pair()
            return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=self._ca())

        renewed = self.renewed(configuration)
        return grpc.dynamic_ssl_server_credentials(renewed.value, renewed.changed, self.demands_certificate)

    def grpc_channel(self) -> grpc.ChannelCredentials:
        """What `secure_channel` takes."""
        import grpc

        self.check()
        cert, key = self._pair()
        return grpc.ssl_channel_credentials(self._ca(), key, cert)

    def http_server(self) -> ssl.SSLContext:
        """For an asyncio server: changed files count from the next handshake on. Only where `serves`.

        Under `certificate` it asks for a client certificate and verifies one that comes; that one came at all is for
        the door to see, since probes show none.
        """

        renewed = self.renewed(lambda: self.server_context(ssl.CERT_OPTIONAL))
        first = renewed.value

        def before_handshake(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
            renewed.changed()
            connection.context = renewed.value

        first.sni_callback = before_handshake
        return first

    def server_context(self, demand: ssl.VerifyMode = ssl.CERT_REQUIRED) -> ssl.SSLContext:
        """For a server's sockets, with the files of now; `demand`: how it asks for certificates under `certificate`."""
        made = self._context(ssl.PROTOCOL_TLS_SERVER)
        # No session is taken up again: it would outlive the authority that let its caller in. Before 1.3 a session has
        # an id that this does not switch off.
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.num_tickets = 0
        made.verify_mode = demand if self.demands_certificate else ssl.CERT_NONE
        return made

    def renewed(self, make: Callable[[], T]) -> Renewed[T]:
        """What `make` makes of these files, again after each change of them."""
        return Renewed(self, make)

    def http_client(self) -> ssl.SSLContext:
        """For an HTTPS client."""
        made = self._context(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is None:
            made.load_default_certs()
        return made

    def _pair(self) -> tuple[bytes | None, bytes | None]:
        return (
            None if self.cert is None else _read(self.cert, "tls_cert"),
            None if self.key is None else _read(self.key, "tls_key"),
        )

    def _ca(self) -> bytes | None:
        return None if self.ca is None else _read(self.ca, "tls_ca")

    def _context(self, side: int) -> ssl.SSLContext:
        """The files as OpenSSL takes them, which is also how they are checked."""
        self._pair(), self._ca()  # says which file cannot be read; OpenSSL does not
        made = ssl.SSLContext(side)
        if self.cert is not None:
            try:
                made.load_cert_chain(self.cert, self.key, password="")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"`tls_cert` {self.cert} and `tls_key` {self.key} are no pair of a certificate and its key "
                    f"({_reason(error)}). Both must be PEM, the key without a password; give a certificate and the key "
                    "that was made with it."
                ) from None
        if self.ca is not None:
            try:
                made.load_verify_locations(self.ca)
            except OSError as error:
                raise ConfigError(
                    f"`tls_ca` {self.ca} holds no certificate ({_reason(error)}). It must be PEM: one certificate of "
                    "an authority, or several while one is replaced."
                ) from None
        return made


PLAIN = Tls()
"""No TLS anywhere; as a client of a TLS address, what the machine trusts."""
_own = PLAIN


def present(tls: Tls) -> None:
    """From now on `tls` is what this process shows and trusts in calls that are given nothing else."""
    global _own
    _own = tls


def own() -> Tls:
    """The process' own, for a call that was given none."""
    return _own


def of(config: ServiceConfig) -> Tls:
    """What a service's settings say about its doors and about other parts."""
    return Tls(config.tls_cert, config.tls_key, config.tls_ca, config.tls_clients)


def to_etcd(config: ServiceConfig) -> Tls:
    """What a service shows to etcd, and by which authority it knows it."""
    return replace(of(config), ca=config.etcd_ca or config.tls_ca)


def to_clickhouse(config: ServiceConfig) -> Tls:
    """What a service shows to ClickHouse, and by which authority it knows it."""
    ca = config.clickhouse_ca
    return replace(of(config), ca=None if ca == "system" else ca or config.tls_ca)


def from_environment(env: Mapping[str, str] = os.environ) -> Tls:
    """What a client of the cluster is told by PROXIST_TLS_CERT, PROXIST_TLS_KEY and PROXIST_TLS_CA."""
    cert, key, ca = (env.get(f"PROXIST_TLS_{name}") for name in ("CERT", "KEY", "CA"))
    return of_files(cert, key, ca)


def of_files(cert: str | Path | None, key: str | Path | None, ca: str | Path | None) -> Tls:
    """A client's own files, each of which may be missing or empty. Raises ConfigError for half a pair."""
    if bool(cert) != bool(key):
        there, missing = ("tls_cert", "tls_key") if cert else ("tls_key", "tls_cert")
        raise ConfigError(f"`{there}` is given without `{missing}`. A certificate and its key go together: give both.")
    cert, key, ca = (Path(name) if name else None for name in (cert, key, ca))
    return Tls(cert, key, ca)


class Renewed(Generic[T]):
    """What `make` gives for the files as they lie there, made again when they have changed.

    Files that are half replaced do not fit each other: until they do, the last good ones stay in use.
    """

    def __init__(self, tls: Tls, make: Callable[[], T]) -> None:
        self._tls = tls
        self._make = make
        self._seen = self._look()
        self._told = self._seen
        tls.check()
        self.value = make()

    def changed(self) -> T | None:
        """The new value where the files have changed, else None. Threads may call it together: each makes its own."""
        now = self._look()
        if now == self._seen:
            return None
        try:
            self._tls.check()
            value = self._make()
        except ConfigError as error:
            self._tell(now, error)
            return None
        if self._look() != now:  # replaced while they were read: the next look takes them
            return None
        self.value, self._seen = value, now
        return value

    def _look(self) -> _Stamps:
        return tuple(_stamp(path) for path in self._tls.files)

    def _tell(self, stamps: _Stamps, error: ConfigError) -> None:
        """Once for each state of the files."""
        if stamps == self._told:
            return
        self._told = stamps
        with contextlib.suppress(ImportError):  # the SDK's base install has no log
            import structlog

            structlog.get_logger("proxist.tls").warning("renewed TLS files cannot be used", error=error.message)


_Stamps: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]
"""What changes when a file is written, replaced or given other rights; None for one that is not there."""


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"`{setting}` is {path}, which cannot be read ({error.strerror}). It must be a PEM file that this user may "
            "read: check the path and its rights."
        ) from None


def _reason(error: Exception) -> str:
    return (getattr(error, "reason", None) or str(error)).lower().replace("_", " ")
