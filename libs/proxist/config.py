"""Settings of a service: command line over `PROXIST_…` environment over one YAML file over defaults.

Unknown keys are refused wherever they come from, and every message names the setting, the value, the rule and the
remedy. A service derives its own class from `ServiceConfig`; the field's name is the YAML key, `PROXIST_<NAME>` the
variable and `--<name-with-dashes>` the flag.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxist.errors import ConfigError

ENV_PREFIX = "PROXIST_"
NOT_SETTINGS = (
    "PROXIST_CONFIG",
    "PROXIST_TOKEN",
    "PROXIST_CONTROLPLANE",
    "PROXIST_ETCD_BINARY",
    "PROXIST_FAILPOINTS",
    "PROXIST_KERNEL_CACHE",
    "PROXIST_TEST_",
)
"""Variables (or their beginnings) of programs and tests, which are not settings of a service."""


class ServiceConfig(BaseSettings):
    """What every service has. Ports: 0 takes a free one, which the ready line then names."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    """Unique among the nodes; an ingest node keeps it over restarts, since shards are placed on names."""
    host: str = "127.0.0.1"
    """Where the doors listen. Anything but loopback needs TLS and tokens, or `insecure: true`."""
    advertise_host: str = Field(default="", pattern=r"^\S*$")
    """What other nodes and clients are told instead of `host`: a name or address of this node that they can reach, for
    where `host` is 0.0.0.0. Default: `host`."""
    flight_port: int = Field(default=0, ge=0, le=65_535)
    """Flight, on ingest and query nodes; 0 takes a free port."""
    grpc_port: int = Field(default=0, ge=0, le=65_535)
    """gRPC, with reflection and health; 0 takes a free port."""
    http_port: int = Field(default=0, ge=0, le=65_535)
    """`/metrics`, `/livez`, `/readyz`, `/health`; 0 takes a free port."""
    data_dir: Path = Path(".proxist")
    """An ingest node's write-ahead log, locked by it; the other services keep nothing there."""
    run_dir: Path = Path()
    """Sockets and epoch pages of this host, mode 0700; short, for unix sockets allow 107 bytes."""
    etcd: str = "127.0.0.1:2379"
    """`host:port`, several with commas; with `https://` before each it is called with TLS."""
    etcd_ca: Path | None = None
    """The authority that signed etcd's certificate, PEM. Default: `tls_ca`."""
    clickhouse: str = Field(default="http://127.0.0.1:8123", repr=False)
    """ClickHouse's HTTP interface, `http://` or `https://`."""
    clickhouse_ca: Path | Literal["system"] | None = None
    """The authority that signed ClickHouse's certificate, PEM, or `system` for those that the machine trusts. Default:
    `tls_ca`."""
    lease_ttl_s: int = Field(default=10, ge=2, le=600)
    """When etcd forgets a node that fell silent; one that starts again under its name does not wait for it."""
    stop_grace_s: float = Field(default=5.0, gt=0, le=300)
    """How long SIGTERM waits for open calls; they end with the process after that."""
    insecure: bool = False
    """Listen beyond loopback without TLS or tokens; the log, `/health` and `pxctl status` show it."""
    tls_cert: Path | None = None
    """The certificate of this node, PEM: its doors speak TLS with it, and it shows it to other parts, etcd and
    ClickHouse. Needs `tls_key` and `tls_ca`."""
    tls_key: Path | None = None
    """The key of `tls_cert`, PEM, without a password."""
    tls_ca: Path | None = None
    """Whom this node trusts, PEM: the authority of every part, two of them while one is replaced."""
    tls_clients: Literal["token", "certificate"] = "token"
    """`certificate`: callers of the doors must also show a certificate that `tls_ca` signed; of the HTTP door only
    `/livez` and `/readyz` answer without one."""
    auth: Literal["off", "tokens"] = "off"
    """`tokens`: every call needs one (`pxctl auth create-token`) and services prove themselves by the cluster's secret."""
    cluster_secret_file: Path | None = None
    """With `auth: tokens`: a file with 32 characters or more, the same for every service; several lines while it is
    rotated, the first one signs. Keep it for the service's user: a start warns where everybody may read it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info, warning or error."""
    trace_callers: bool = True
    """Whether calls continue the trace that their caller sends; false: each begins a trace of its own. Tracing itself is
    switched on by the standard OTEL_* variables."""

    @property
    def etcd_endpoints(self) -> list[str]:
        return [endpoint.strip() for endpoint in self.etcd.split(",") if endpoint.strip()]

    def advertised(self, endpoints: Mapping[str, str]) -> dict[str, str]:
        """A node's `endpoints` as others reach them: TCP addresses with `advertise_host`."""
        if not self.advertise_host:
            return dict(endpoints)
        return {
            door: address.replace(self.host, self.advertise_host, 1) if door in ("flight", "grpc", "http") else address
            for door, address in endpoints.items()
        }

    @property
    def flight_socket(self) -> Path:
        """Where the Flight door listens beside TCP."""
        return self.run_dir / f"{self.name}.flight"

    @property
    def attach_socket(self) -> Path:
        """Where an owner hands out descriptors of its hot sets."""
        return self.run_dir / f"{self.name}.attach"

    def warnings(self) -> list[str]:
        """What is allowed and still opens a way around TLS or tokens, a sentence each.

        Stores of other machines that are called in clear by a node with TLS or tokens, and secret files that every user
        of this machine may read. None for a store where the node is `insecure`.
        """
        found = []
        if not self.insecure and (self.tls_cert is not None or self.auth == "tokens"):
            plain = [e.removeprefix("http://") for e in self.etcd_endpoints if not e.startswith("https://")]
            if not all(is_loopback(endpoint.rpartition(":")[0]) for endpoint in plain):
                found.append(
                    "`etcd` is on another machine and called without TLS: whoever is between may make tokens. Write "
                    "https:// before every endpoint."
                )
            store = urlsplit(self.clickhouse)
            if store.scheme == "http" and not is_loopback(store.hostname or ""):
                found.append(
                    "`clickhouse` is on another machine and called without TLS: rows and its password go in clear. Write "
                    "https:// before the address."
                )
        for name, path in (("tls_key", self.tls_key), ("cluster_secret_file", self.cluster_secret_file)):
            if path is not None and _everybody_reads(path):
                found.append(
                    f"Every user of this machine may read the file of `{name}`. Take that away: chmod o= FILE."
                )
        return found

    @field_validator("etcd")
    @classmethod
    def _etcd_has_ports(cls, value: str) -> str:
        endpoints = [endpoint.strip() for endpoint in value.split(",")]
        for endpoint in endpoints:
            host, colon, port = endpoint.removeprefix("https://").removeprefix("http://").rpartition(":")
            if not (host and colon and port.isdigit()) or "/" in host:
                raise ValueError("must be host:port, several with commas, for example 127.0.0.1:2379")
        if len({endpoint.startswith("https://") for endpoint in endpoints}) > 1:
            raise ValueError("must have https:// before every endpoint or before none")
        return value

    @field_validator("clickhouse")
    @classmethod
    def _clickhouse_is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or not urlsplit(value).hostname:
            raise ValueError("must be an http:// or https:// address, for example http://127.0.0.1:8123")
        return value

    @model_validator(mode="before")
    @classmethod
    def _run_dir_of_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("run_dir"):
            data_dir = Path(values.get("data_dir", cls.model_fields["data_dir"].default))
            values = {**values, "run_dir": default_run_dir(data_dir)}
        return values

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        files = {"tls_cert": self.tls_cert, "tls_key": self.tls_key, "tls_ca": self.tls_ca}
        given = [f"`{name}`" for name, path in files.items() if path is not None]
        missing = [f"`{name}`" for name, path in files.items() if path is None]
        if given and missing:
            raise ValueError(
                f"{given[0]} is set without {' and '.join(missing)}. A node that speaks TLS has a certificate, its key "
                "and the authority that it trusts: set `tls_cert`, `tls_key` and `tls_ca`. An authority of a store alone "
                "is `etcd_ca` or `clickhouse_ca`"
            )
        if self.tls_clients == "certificate" and not given:
            raise ValueError(
                "`tls_clients` is certificate, but the doors speak no TLS. Set `tls_cert`, `tls_key` and `tls_ca`, or "
                "leave `tls_clients` at token"
            )
        return self

    @model_validator(mode="after")
    def _loopback_or_closed(self) -> Self:
        if self.insecure or is_loopback(self.host):
            return self
        open_ways = []
        if self.tls_cert is None:
            open_ways.append("TLS (set `tls_cert`, `tls_key` and `tls_ca`)")
        if self.auth == "off":
            open_ways.append("tokens (set `auth: tokens` and `cluster_secret_file`)")
        if open_ways:
            raise ValueError(
                f"`host` is {self.host}, which other machines can reach, without {' and without '.join(open_ways)}. "
                "Only loopback may be served that way. Set what is missing, listen on 127.0.0.1, or say "
                "`insecure: true` if the network is trusted"
            )
        return self


_TEMP_BYTES_MAX = 48
"""What a unix socket's 107 bytes leave for the temporary directory, below it `proxist-<uid>/<12 digits>/<name>.attach`."""

C = TypeVar("C", bound=ServiceConfig)


def default_run_dir(data_dir: Path) -> Path:
    """A short directory of this user and of `data_dir` alone."""
    digest = hashlib.blake2b(str(data_dir.resolve()).encode(), digest_size=6).hexdigest()
    base = tempfile.gettempdir()
    if len(base.encode()) > _TEMP_BYTES_MAX:
        base = "/tmp"
    return Path(base) / f"proxist-{os.getuid()}" / digest


def _everybody_reads(path: Path) -> bool:
    """False for a file that is not there: whoever opens it says so."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load(
    cls: type[C],
    argv: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> C:
    """Read the settings of `cls`: flags `argv` over `env` (default os.environ) over `--config FILE` over `defaults`.

    Raises ConfigError.
    """
    flags = _flags(cls, argv)
    variables = dict(os.environ if env is None else env)
    path = flags.pop("config", None) or variables.get("PROXIST_CONFIG")
    values = {**(defaults or {}), **(_file(cls, Path(path)) if path else {}), **_environment(cls, variables), **flags}
    try:
        # As keyword arguments they outrank pydantic's own reading of the environment, and carry all of it.
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def usage(cls: type[ServiceConfig], defaults: Mapping[str, Any] | None = None) -> str:
    """Per setting its flag, variable and default, and what it means."""
    lines = ["  --config FILE (PROXIST_CONFIG)", "      YAML with any of the settings below."]
    for name, field in cls.model_fields.items():
        lines.append(f"  --{_flag(name)} ({ENV_PREFIX}{name.upper()}), default {default_text(cls, name, defaults)}")
        lines += [f"      {line}" for line in (field.description or "").splitlines()]
    return "\n".join(lines)


def default_text(cls: type[ServiceConfig], name: str, defaults: Mapping[str, Any] | None = None) -> str:
    """A setting's default for people."""
    field = cls.model_fields[name]
    if name == "run_dir":
        return "in the temporary directory, by user and data_dir"
    value = (defaults or {}).get(name, "none, required" if field.is_required() else field.get_default())
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _flags(cls: type[ServiceConfig], argv: Sequence[str]) -> dict[str, Any]:
    known = {f"--{_flag(name)}": name for name in ["config", *cls.model_fields]}
    values: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        name = known.get(flag)
        if name is None:
            raise ConfigError(
                f"{without_password(flag)!r} is not a flag of this service. Flags are {', '.join(known)}."
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                is_switch = name != "config" and cls.model_fields[name].annotation is bool
                if not is_switch:
                    raise ConfigError(f"`{flag}` has no value. Write `{flag} VALUE`.")
                value = "true"
            else:
                value = rest.pop(0)
        values[name] = value
    return values


def _environment(cls: type[ServiceConfig], env: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for variable, value in env.items():
        if not variable.startswith(ENV_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in cls.model_fields:
            raise ConfigError(
                f"The environment variable {variable} is no setting of this service. Unset it; settings are "
                f"{', '.join(ENV_PREFIX + known.upper() for known in cls.model_fields)}."
            )
        values[name] = value
    return values


def _file(cls: type[ServiceConfig], path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"The config file {path} cannot be read ({error.strerror}). Check `--config`.") from None
    except yaml.YAMLError as error:
        # Not the error's own text: it repeats the line, which may hold a password.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ConfigError(
            f"The config file {path} is not YAML{where}: {getattr(error, 'problem', 'unreadable')}."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"The config file {path} must hold `setting: value` lines.")
    for key in values:
        if key not in cls.model_fields:
            raise ConfigError(
                f"The config file {path} has the unknown setting {key!r}. Settings are {', '.join(cls.model_fields)}."
            )
    return values


def without_password(address: str) -> str:
    """An address for people: user and password, all before its last @, are hidden."""
    head, at, rest = address.rpartition("@")
    scheme, slashes, _ = head.partition("://")
    return f"{scheme if slashes else ''}{slashes}***@{rest}" if at else address


def _shown(value: Any) -> str:
    """A setting's value in a message; one that is no text and holds an @ is not shown."""
    if isinstance(value, str):
        return repr(without_password(value))
    return f"a {type(value).__name__}" if "@" in repr(value) else repr(value)


def _explain(error: ValidationError) -> str:
    """Every broken rule in one message."""
    parts = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            parts.append(
                f"`{name}` is missing. Set --{_flag(name)}, {ENV_PREFIX}{name.upper()} or `{name}:` in the config file."
            )
        elif not name:
            parts.append(f"{problem['msg'].removeprefix('Value error, ')}.")
        else:
            rule = problem["msg"].removeprefix("Value error, ")
            parts.append(
                f"`{name}` is {_shown(problem['input'])}: {rule}. Change `{name}` (--{_flag(name)}, {ENV_PREFIX}{name.upper()})."
            )
    return " ".join(parts)
