"""Tokens in etcd: create, list, revoke."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace

from proxist.auth.guard import TOKENS
from proxist.auth.identity import CLUSTER_ROLES, EVERY_TENANT, Grant, check_tenant
from proxist.auth.tokens import TokenRecord, new_token
from proxist.errors import InvalidArgument, NotFound, Unavailable
from proxist.etcd.client import EtcdClient
from proxist.etcd.ops import KeyValue, Put, absent, mod_is

NOTE_CHARS_MAX = 256
LIFE_NS_MAX = 10 * 365 * 86_400 * 10**9
_TRIES = 5


def create_token(
    client: EtcdClient,
    *,
    tenant: str,
    grants: Sequence[Grant],
    expires_in_ns: int,
    note: str = "",
    created_by: str = "",
    now_ns: int | None = None,
) -> tuple[str, TokenRecord]:
    """(the token, its record); the only time that the token is known. `expires_in_ns` 0: never.

    Raises InvalidArgument; Unavailable where etcd does not answer: the token may exist then, but nobody has it.
    """
    check_tenant(tenant)
    if not grants:
        raise InvalidArgument("A token without a grant may do nothing. Add one, for example `--grant reader:trades*`.")
    if tenant == EVERY_TENANT and any(grant.role not in CLUSTER_ROLES for grant in grants):
        raise InvalidArgument(
            f"A token of tenant `*` runs the cluster and touches no rows: its roles are {' and '.join(CLUSTER_ROLES)}. "
            "Name one tenant for reading and writing."
        )
    if not 0 <= expires_in_ns <= LIFE_NS_MAX:
        raise InvalidArgument(
            "A token's life must be from 1 ns to 10 years, for example `--expires 90d`, or 0 for ever."
        )
    if len(note) > NOTE_CHARS_MAX or not note.isprintable():
        raise InvalidArgument(f"`note` must be printable and at most {NOTE_CHARS_MAX} characters.")
    now = time.time_ns() if now_ns is None else now_ns
    id_, token, hash_ = new_token()
    expires_ns = now + expires_in_ns if expires_in_ns else 0
    record = TokenRecord(id_, hash_, tenant, tuple(grants), note, now, expires_ns, 0, created_by)
    if not client.txn([absent(TOKENS + id_)], [Put(TOKENS + id_, _bytes(record))]).succeeded:
        raise Unavailable("The token's id was taken in this instant. Try again.", retry_after_s=0.0)
    return token, record


def list_tokens(client: EtcdClient, tenant: str | None) -> list[TokenRecord]:
    """Of one tenant, or of all; by age."""
    records = [_record(kv) for kv in client.range(TOKENS)[0]]
    return sorted((r for r in records if tenant in (None, r.tenant)), key=lambda r: (r.created_ns, r.id))


def revoke_token(client: EtcdClient, id_: str, tenant: str | None, *, now_ns: int | None = None) -> TokenRecord:
    """The record, revoked on return; nodes refuse it as soon as their mirror shows it, milliseconds as a rule.

    `tenant`: only where it is that tenant's, else NotFound as for an unknown id. Revoking again changes nothing.
    """
    id_ = id_.removeprefix("px_").split("_")[0]
    for _ in range(_TRIES):
        kv = client.get(TOKENS + id_)
        record = None if kv is None else _record(kv)
        if kv is None or record is None or tenant not in (None, record.tenant):
            raise NotFound(f"There is no token px_{id_[:32]}. List them with `pxctl auth list`.")
        if record.revoked_ns:
            return record
        record = replace(record, revoked_ns=time.time_ns() if now_ns is None else now_ns)
        if client.txn([mod_is(TOKENS + id_, kv.mod_revision)], [Put(TOKENS + id_, _bytes(record))]).succeeded:
            return record
    raise Unavailable("Others change that token at the same time. Try again.", retry_after_s=0.1)


def _record(kv: KeyValue) -> TokenRecord:
    return TokenRecord.from_json(json.loads(kv.value))


def _bytes(record: TokenRecord) -> bytes:
    return json.dumps(record.to_json(), sort_keys=True).encode()
