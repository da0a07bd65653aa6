"""The guard of a service, from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from proxist.auth import outgoing
from proxist.auth.cluster import ClusterSecret
from proxist.auth.guard import Guard, open_guard, token_guard
from proxist.errors import ConfigError
from proxist.etcd.mirror import Mirror


class Settings(Protocol):
    """What is needed of `ServiceConfig`."""

    @property
    def name(self) -> str: ...
    @property
    def auth(self) -> str: ...
    @property
    def cluster_secret_file(self) -> Path | None: ...


def guard_of(config: Settings, mirror: Mirror) -> Guard:
    """The guard for every door of the process; with `auth: tokens` this process' calls carry its own identity from now
    on. Raises ConfigError where the cluster's secret is missing or weak."""
    if config.auth == "off":
        return open_guard()
    if config.cluster_secret_file is None:
        raise ConfigError(
            "`auth` is tokens, so `cluster_secret_file` (PROXIST_CLUSTER_SECRET_FILE) must name the file with the "
            "cluster's secret. Make one with `openssl rand -hex 32 > FILE && chmod 600 FILE`."
        )
    secret = ClusterSecret.read(config.cluster_secret_file)
    outgoing.present(secret.credential(config.name))
    return token_guard(mirror.get, lambda: mirror.resync_count > 0, secret)
