"""What `proxist up --tls` keeps in DATA/tls: certificates, the cluster's secret, and the first administrator's token.

Made at the first start and kept over later ones; what has ended meanwhile is made anew.
"""

from __future__ import annotations

import os
import secrets
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from proxist.auth.cluster import ClusterSecret
from proxist.cli.certs import make_dev_certs, still_good, write_private
from proxist.cli.pages import opener
from proxist.errors import Unavailable
from proxist.model.table import DEFAULT_TENANT
from proxist.rpc.tls import Tls

TOKEN_LIFE = "365d"
ACCEPT_S_MAX = 20.0
"""How long to wait until every service knows the token: its copy of etcd has it within milliseconds."""
CALL_S = 2.0
POLL_S = 0.02
SECRET_VARIABLE = "PROXIST_CLUSTER_SECRET_FILE"


@dataclass(frozen=True)
class ClusterTls:
    """The files of one cluster. `secret` is the user's own file where SECRET_VARIABLE names one."""

    directory: Path

    @cached_property
    def parts(self) -> Tls:
        """What each part shows and trusts."""
        return Tls(self.directory / "tls.crt", self.directory / "tls.key", self.directory / "ca.crt", "certificate")

    @cached_property
    def client(self) -> Tls:
        """What clients show and trust."""
        return Tls(self.directory / "client.crt", self.directory / "client.key", self.directory / "ca.crt")

    @cached_property
    def secret(self) -> Path:
        return Path(os.environ.get(SECRET_VARIABLE) or self.directory / "cluster.secret")

    @property
    def token(self) -> Path:
        return self.directory / "admin.token"

    def files(self) -> dict[str, str]:
        """What a client needs, as `proxist up --json` prints it."""
        client = {"ca": self.client.ca, "cert": self.client.cert, "key": self.client.key}
        return {name: str(path) for name, path in {**client, "token_file": self.token}.items()}

    def exports(self) -> list[str]:
        """The variables, for a shell, by which the SDK and pxctl find the same."""
        files = {"CA": self.client.ca, "CERT": self.client.cert, "KEY": self.client.key}
        lines = [f"PROXIST_TLS_{name}={shlex.quote(str(path))}" for name, path in files.items()]
        return [*lines, f'PROXIST_TOKEN="$(cat {shlex.quote(str(self.token))})"']

    def part_flags(self) -> list[str]:
        """Of every part that is ours."""
        files = {"--tls-cert": self.parts.cert, "--tls-key": self.parts.key, "--tls-ca": self.parts.ca}
        return [word for flag, path in files.items() for word in (flag, str(path))]

    def service_flags(self) -> list[str]:
        """Of every service."""
        auth = ["--auth", "tokens", "--cluster-secret-file", str(self.secret)]
        return [*self.part_flags(), "--tls-clients", self.parts.clients, *auth]

    def admit(self, status: Mapping[str, Mapping[str, Any]]) -> None:
        """On return `token` holds an administrator's token of the default tenant, which every service takes.

        `status` is the supervisor's, all parts ready. The token of an earlier start is kept while the cluster knows it.
        Raises Unavailable where a service does not take the token within ACCEPT_S_MAX.
        """
        deadline_s = time.monotonic() + ACCEPT_S_MAX
        token = self.token.read_text().strip() if self.token.exists() else ""
        if not token or not _takes(self, status["controlplane-0"], token, deadline_s, refusal_counts=True):
            token = _create(self, status["controlplane-0"]["grpc"])
            write_private(self.token, f"{token}\n".encode())
        for part in status.values():
            if part["role"] not in ("etcd", "clickhouse"):
                _takes(self, part, token, deadline_s, refusal_counts=False)


def prepare(data_dir: Path) -> ClusterTls:
    """The files of the cluster under `data_dir`; on return all are there but the token, which needs the cluster."""
    made = ClusterTls(data_dir / "tls")
    made.directory.mkdir(mode=0o700, exist_ok=True)
    if not still_good(made.directory):
        make_dev_certs(made.directory)
    if not os.environ.get(SECRET_VARIABLE) and not made.secret.exists():
        write_private(made.secret, f"{secrets.token_hex(32)}\n".encode())
    return made


def _create(tls: ClusterTls, address: str) -> str:
    """By the control plane, to which the cluster's secret proves us."""
    from proxist.pb import auth_pb2 as pb
    from proxist.pb.auth_pb2_grpc import AuthServiceStub
    from proxist.rpc.grpc_client import connect

    credential = ClusterSecret.read(tls.secret).credential("up")
    with connect(address, timeout_s=ACCEPT_S_MAX, credential=credential, tls=tls.client) as channel:
        request = pb.CreateTokenRequest(
            tenant=DEFAULT_TENANT, grants=[pb.Grant(role="admin")], expires_in=TOKEN_LIFE, note="made by proxist up"
        )
        return str(AuthServiceStub(channel).CreateToken(request).secret_token)


def _takes(tls: ClusterTls, part: Mapping[str, Any], token: str, deadline_s: float, *, refusal_counts: bool) -> bool:
    """Whether the part's /health, which needs any token, takes this one; False where it refuses and that counts."""
    request = urllib.request.Request(f"{part['http']}/health", headers={"authorization": f"Bearer {token}"})
    pages = opener(tls.client)
    while time.monotonic() < deadline_s:
        try:
            with pages.open(request, timeout=CALL_S):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 401 and refusal_counts:
                return False
        except OSError:
            pass
        time.sleep(POLL_S)
    raise Unavailable(
        f"The service at {part['http']} did not take the token of {str(tls.token)!r} within {ACCEPT_S_MAX:.0f} s. "
        "Look at its log, and start the cluster again."
    )
