"""The cluster's secret, which every service is given in a file, and the short-lived tokens that it signs.

`pxi_<name>_<expires>_<signature>`: the process' name, seconds since 1970 in hex, HMAC-SHA256. Whoever holds the secret
is a service of the cluster and may do everything; nobody else has a use for it. Rotation: the file may hold several
secrets, one per line; the first one signs, all of them verify.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from pathlib import Path

from proxist.auth.identity import EVERY_TENANT, Identity
from proxist.errors import ConfigError

SECRET_CHARS_MIN = 32
LIFE_S = 300
"""How long a signed token is taken; clocks of one cluster may differ by less."""
RENEW_S = 60
_FORM = re.compile(r"pxi_([a-z][a-z0-9-]{0,62})_([0-9a-f]{1,12})_([0-9a-f]{64})")


class ClusterSecret:
    """Signs and verifies. Thread-safe; never shown by repr."""

    def __init__(self, secrets: tuple[str, ...], now_s: Callable[[], float] = time.time) -> None:
        self._keys = tuple(secret.encode() for secret in secrets)
        self._now_s = now_s

    @classmethod
    def read(cls, path: Path) -> ClusterSecret:
        """Raises ConfigError that names the setting; never shows what the file holds."""
        try:
            lines = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(
                f"`cluster_secret_file` cannot be read ({reason}). Set it (PROXIST_CLUSTER_SECRET_FILE) to a file with "
                "the cluster's secret that this user may read."
            ) from None
        if not lines or any(len(line) < SECRET_CHARS_MIN for line in lines):
            raise ConfigError(
                f"`cluster_secret_file` holds a secret of fewer than {SECRET_CHARS_MIN} characters. Make one with "
                "`openssl rand -hex 32 > FILE && chmod 600 FILE`, the same for every service."
            )
        return cls(lines)

    def sign(self, name: str) -> str:
        """A token for the process `name`, good for LIFE_S."""
        body = f"pxi_{name}_{int(self._now_s()) + LIFE_S:x}"
        return f"{body}_{_signature(self._keys[0], body)}"

    def verify(self, token: str) -> Identity | None:
        """Whose it is; None where it is not ours or too old."""
        match = _FORM.fullmatch(token)
        if match is None:
            return None
        name, expires, signature = match.groups()
        body = f"pxi_{name}_{expires}"
        good = [hmac.compare_digest(_signature(key, body), signature) for key in self._keys]
        now_s = self._now_s()
        if not any(good) or not now_s < int(expires, 16) <= now_s + 2 * LIFE_S:
            return None
        return Identity(name, EVERY_TENANT, kind="internal")

    def credential(self, name: str) -> Callable[[], str]:
        """A source of tokens for calls, signed anew every RENEW_S."""
        kept = ("", 0.0)

        def token() -> str:
            nonlocal kept
            if self._now_s() >= kept[1]:
                kept = (self.sign(name), self._now_s() + RENEW_S)
            return kept[0]

        return token


def _signature(key: bytes, body: str) -> str:
    return hmac.new(key, body.encode(), hashlib.sha256).hexdigest()
