"""The guard: what a door holds. `admit(entry, credential)` gives the caller or raises.

A token is looked up by its id in the mirror of etcd that every service keeps, so a read costs one hash and two lookups,
and a revocation counts as soon as the mirror has it. While etcd is away the last copy decides: existing tokens go on,
their expiry included; a revocation is seen when etcd is back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from proxist.auth.cluster import ClusterSecret
from proxist.auth.identity import LOCAL, Caller, Identity, enter, local_caller
from proxist.auth.rules import RULES, Action
from proxist.auth.tokens import TokenRecord, hash_of, is_hash_of, token_id
from proxist.errors import PermissionDenied, Unauthenticated, Unavailable

CACHE_MAX = 4096
TOKEN_CHARS_MAX = 512
TOKENS = "/proxist/v1/auth/tokens/"
"""Keys of token records, under the prefix that every mirror follows."""

log = structlog.get_logger("proxist.auth")


class Kept(Protocol):
    """A key of etcd as a mirror has it."""

    @property
    def value(self) -> bytes: ...
    @property
    def mod_revision(self) -> int: ...


Observe = Callable[[str, Identity | None, str], None]
"""(entry, identity, outcome) of every decision: where an audit log will listen."""


class Guard(Protocol):
    """Thread-safe."""

    on: bool
    """Whether anybody is ever refused; a door that has it off need not look for credentials."""

    def admit(self, entry: str, credential: str | None) -> Caller:
        """`credential`: a token, with or without `Bearer `. Raises Unauthenticated, PermissionDenied, Unavailable."""


class _Open:
    on = False

    def admit(self, entry: str, credential: str | None) -> Caller:
        return local_caller(entry)


def open_guard() -> Guard:
    """Everybody may everything: local mode, and `insecure: true`."""
    return _OPEN


_OPEN = _Open()


class _Tokens:
    on = True

    def __init__(
        self,
        get: Callable[[str], Kept | None],
        synced_once: Callable[[], bool],
        secret: ClusterSecret,
        now_ns: Callable[[], int],
        observe: Observe,
    ) -> None:
        self._get = get
        self._synced_once = synced_once
        self._secret = secret
        self._now_ns = now_ns
        self._observe = observe
        # token's hash -> (revision of its record, record). Written without a lock: each entry is whole or not there.
        self._cache: dict[str, tuple[int, TokenRecord]] = {}

    def admit(self, entry: str, credential: str | None) -> Caller:
        identity: Identity | None = None
        try:
            rule = RULES.get(entry)
            if rule is not None and rule.action is Action.OPEN:
                return Caller(_NOBODY, rule, entry)
            identity = self._identity(bearer(credential))
            caller = enter(identity, entry)
        except PermissionDenied as error:
            self._observe(entry, identity, error.code)
            raise
        self._observe(entry, identity, "ok")
        return caller

    def _identity(self, token: str) -> Identity:
        if token.startswith("pxi_"):
            internal = self._secret.verify(token)
            if internal is None:
                raise _invalid(
                    "It is no service's of this cluster, or too old: check `cluster_secret_file` and clocks."
                )
            return internal
        id_ = token_id(token)
        if id_ is None:
            raise _invalid("A token is px_<id>_<secret>.")
        record = self._record(id_, hash_of(token))
        state = record.state(self._now_ns())
        if state != "active":  # told only to who holds the secret
            raise Unauthenticated(
                f"Token px_{id_} is {state}. Have a new one made with `pxctl auth create-token` and use that.",
                reason=state,
            )
        return record.identity()

    def _record(self, id_: str, hash_: str) -> TokenRecord:
        kept = self._get(TOKENS + id_)
        if kept is None:
            if not self._synced_once():
                raise Unavailable(
                    "This node has not read the tokens from etcd yet. Try again in a moment.", retry_after_s=0.5
                )
            raise _invalid("It is unknown: check it, and the cluster that you call.")
        cached = self._cache.get(hash_)
        if cached is not None and cached[0] == kept.mod_revision:
            return cached[1]
        record = TokenRecord.from_json(json.loads(kept.value))
        if not is_hash_of(record.hash, hash_):
            raise _invalid("It is unknown: check it, and the cluster that you call.")
        if len(self._cache) >= CACHE_MAX:
            self._cache.clear()
        self._cache[hash_] = (kept.mod_revision, record)
        return record


_NOBODY = Identity("nobody", "", kind="token")


def token_guard(
    get: Callable[[str], Kept | None],
    synced_once: Callable[[], bool],
    secret: ClusterSecret,
    *,
    now_ns: Callable[[], int] = time.time_ns,
    observe: Observe | None = None,
) -> Guard:
    """Nobody may anything but what their token grants. `get`: a key of etcd's mirror; `synced_once`: whether it has
    been read at all."""
    return _Tokens(get, synced_once, secret, now_ns, observe or _log)


def bearer(credential: str | None) -> str:
    """The token of an `authorization` value. Raises Unauthenticated where there is none."""
    if not credential:
        raise Unauthenticated(
            "This needs a token and none came. Pass `connect(…, token=…)`, PROXIST_TOKEN, `pxctl --token`, or the "
            "header `authorization: Bearer px_…`; an administrator makes one with `pxctl auth create-token`.",
            reason="missing",
        )
    token = credential.strip()
    if token[:7].lower() == "bearer ":
        token = token[7:].strip()
    if len(token) > TOKEN_CHARS_MAX:
        raise _invalid("It is too long for a token.")
    return token


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated(
        f"The token is not valid. {why} Have one made with `pxctl auth create-token`.", reason="invalid"
    )


def _log(entry: str, identity: Identity | None, outcome: str) -> None:
    if outcome != "ok":
        # What is no entry may be any text of a client's.
        known = entry if entry in RULES else f"{entry.partition('/')[0]}/unknown"
        log.info("refused", entry=known, caller=identity.id if identity else None, outcome=outcome)


__all__ = ["LOCAL", "TOKENS", "Guard", "Kept", "Observe", "bearer", "open_guard", "token_guard"]
