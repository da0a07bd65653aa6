"""The gRPC AuthService: tokens made, listed and revoked in etcd; and what a caller may."""

from __future__ import annotations

import time
from typing import Any

from proxist.auth.identity import EVERY_TENANT, Caller, Grant, caller_of, checked_grant, may
from proxist.auth.rules import Action
from proxist.auth.store import create_token, list_tokens, revoke_token
from proxist.auth.tokens import TokenRecord
from proxist.errors import InvalidArgument, PermissionDenied
from proxist.etcd import EtcdClient
from proxist.model.units import parse_duration_ns
from proxist.pb import auth_pb2 as pb
from proxist.pb import auth_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AuthService"].full_name
EXPIRES_IN = "90d"
"""Of a token whose maker said nothing."""
_DAY_NS = 86_400 * 10**9
_ASKABLE = (Action.READ, Action.WRITE, Action.OPERATE, Action.ADMIN)


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Implements protos/proxist/auth/v1/auth.proto; its comments are the contract."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        caller = caller_of(context)
        token, record = create_token(
            self._client,
            tenant=_tenant_for(caller, request.tenant),
            grants=[checked_grant(g.role, g.tables or "*") for g in request.grants],
            expires_in_ns=life_ns(request.expires_in or EXPIRES_IN),
            note=request.note,
            created_by=caller.identity.id,
        )
        return pb.CreateTokenResponse(secret_token=token, token=_wire(record))

    def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> pb.ListTokensResponse:
        caller = caller_of(context)
        tenant = request.tenant or None if _runs_cluster(caller) else caller.tenant(request.tenant)
        return pb.ListTokensResponse(tokens=[_wire(record) for record in list_tokens(self._client, tenant)])

    def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:
        caller = caller_of(context)
        tenant = None if _runs_cluster(caller) else caller.tenant()
        return pb.RevokeTokenResponse(token=_wire(revoke_token(self._client, request.id, tenant)))

    def CanI(self, request: pb.CanIRequest, context: Any) -> pb.CanIResponse:
        caller = caller_of(context)
        if request.action not in {str(action) for action in _ASKABLE}:
            raise InvalidArgument(f"{request.action!r} is not an action. Ask for one of {', '.join(_ASKABLE)}.")
        try:
            tenant = caller.tenant(request.tenant)
            allowed = _may(caller, Action(request.action), tenant, request.table)
        except PermissionDenied:
            tenant, allowed = request.tenant, False
        own = caller.identity
        grants = [pb.Grant(role=g.role, tables=g.tables) for g in own.grants]
        return pb.CanIResponse(allowed=allowed, caller=own.id, tenant=tenant, grants=grants)


def _may(caller: Caller, action: Action, tenant: str, table: str) -> bool:
    """All tables: a grant on the pattern `*`, which is what matches a name that is just that."""
    return may(caller.identity, action, tenant, table or "*")


def _runs_cluster(caller: Caller) -> bool:
    return caller.trusted or caller.identity.tenant == EVERY_TENANT


def _tenant_for(caller: Caller, asked: str) -> str:
    """Nobody makes a token that reaches further than their own tenant."""
    return caller.tenant(asked)


def life_ns(text: str) -> int:
    """Nanoseconds of "90d", "12h" or "0". Raises InvalidArgument."""
    text = text.strip()
    if text == "0":
        return 0
    if text.endswith("d") and text[:-1].isdigit():
        return int(text[:-1]) * _DAY_NS
    return parse_duration_ns(text, "The token's life (`expires_in`)")


def _wire(record: TokenRecord) -> pb.Token:
    return pb.Token(
        id=record.id,
        tenant=record.tenant,
        grants=[_grant(grant) for grant in record.grants],
        note=record.note,
        state=record.state(time.time_ns()),
        created_ns=record.created_ns,
        expires_ns=record.expires_ns,
        revoked_ns=record.revoked_ns,
        created_by=record.created_by,
    )


def _grant(grant: Grant) -> pb.Grant:
    return pb.Grant(role=grant.role, tables=grant.tables)
