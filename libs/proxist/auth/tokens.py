"""Service tokens: `px_<id>_<secret>`. The id is public and names the record; the secret is shown once, at creation.

At rest there is only SHA-256 over id and secret: with 192 random bits there is nothing to guess, so a slow hash would
protect nothing and cost every call.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any

from proxist.auth.identity import Grant, Identity

ID_BYTES, SECRET_BYTES = 6, 24
_FORM = re.compile(r"px_([0-9a-f]{12})_([0-9a-f]{48})")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What etcd keeps of a token. Times in ns since 1970; `expires_ns` and `revoked_ns` 0: never, not."""

    id: str
    hash: str
    tenant: str
    grants: tuple[Grant, ...]
    note: str = ""
    created_ns: int = 0
    expires_ns: int = 0
    revoked_ns: int = 0
    created_by: str = ""

    def identity(self) -> Identity:
        return Identity(self.id, self.tenant, self.grants)

    def state(self, now_ns: int) -> str:
        """ "active", "expired" or "revoked"."""
        if self.revoked_ns:
            return "revoked"
        return "expired" if self.expires_ns and now_ns >= self.expires_ns else "active"

    def to_json(self) -> dict[str, Any]:
        wire = {name: getattr(self, name) for name in self.__slots__ if name != "grants"}
        return {**wire, "grants": [{"role": g.role, "tables": g.tables} for g in self.grants]}

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> TokenRecord:
        grants = tuple(Grant(g["role"], g["tables"]) for g in wire["grants"])
        return cls(**{name: wire[name] for name in cls.__slots__ if name in wire and name != "grants"}, grants=grants)


def new_token() -> tuple[str, str, str]:
    """(id, the whole token, its hash)."""
    id_, secret = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES)
    token = f"px_{id_}_{secret}"
    return id_, token, hash_of(token)


def token_id(token: str) -> str | None:
    """The id in a token; None for anything that is not of the form."""
    match = _FORM.fullmatch(token)
    return match and match.group(1)


def hash_of(token: str) -> str:
    """Of a whole token, so that a secret is worth nothing under another id."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_hash_of(stored: str, presented: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(stored, presented)
