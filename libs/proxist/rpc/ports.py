"""Ports: free ones for local mode and tests, and the error where one is not free."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from proxist.errors import ConfigError, PortTaken, ProxistError

_FIRST, _LAST = 10_000, 32_000
"""Below the range from which Linux takes ports for outgoing connections (32768 up), so that a port that was free a
moment ago, or whose listener died, is not taken by a client in between."""
UNIX_PATH_BYTES_MAX = 107


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` distinct ports on which nothing listens at this moment."""
    found: list[int] = []
    candidates = list(range(_FIRST, min(_LAST, _first_ephemeral())))
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if len(found) == count:
            return found
        if is_free(host, port):
            found.append(port)
    raise ConfigError(
        f"{count} free ports are needed between {_FIRST} and {_LAST}; {len(found)} are there. Close some."
    )


def is_free(host: str, port: int) -> bool:
    """Whether a listener could bind `host:port` now."""
    return _bind_errno(host, port) == 0


def bind_error(host: str, port: int, setting: str) -> ProxistError:
    """Why `host:port`, which could not be bound, could not: for a message that names the port, rule and remedy."""
    code = _bind_errno(host, port)
    if code in (errno.EADDRINUSE, 0):
        return PortTaken(
            f"Port {port} on {host} (`{setting}`) is taken by another process, but a service needs it to itself. "
            f"Stop that process (`ss -ltnp 'sport = :{port}'` names it) or choose another port with `{setting}`.",
            port=port,
            host=host,
        )
    return ConfigError(
        f"Nothing can listen on {host}:{port} (`{setting}`): {errno.errorcode.get(code, code)}. "
        f"Choose an address of this machine and a port that this user may use."
    )


def check_unix_path(path: Path) -> None:
    """Raises ConfigError where a unix socket cannot have this path."""
    if len(str(path).encode()) > UNIX_PATH_BYTES_MAX:
        raise ConfigError(
            f"The unix socket {path} has a path of {len(str(path).encode())} bytes, but the system takes "
            f"{UNIX_PATH_BYTES_MAX} at most. Choose a shorter `run_dir`."
        )


def _bind_errno(host: str, port: int) -> int:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return 0


def _first_ephemeral() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
