"""The one table of what each entry of each door needs. An entry that is not here is refused.

Entries: `flight/<verb>`, `flight/<verb>:<kind of ticket>`, `flight/DoAction:<action>`, `grpc/<service>/<method>`,
`http/<route>`, `attach`. tests/auth builds the list of entries from the service definitions and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Action(StrEnum):
    """What a role allows. The first two are no rights: OPEN needs no identity, KNOWN any identity at all."""

    OPEN = "open"
    KNOWN = "known"
    READ = "read"
    WRITE = "write"
    OPERATE = "operate"
    ADMIN = "admin"
    INTERNAL = "internal"
    """Services among themselves; no token has it."""


class Scope(StrEnum):
    """What the action is done to."""

    NONE = "none"
    """Nothing of a tenant's."""
    LIST = "list"
    """Whatever the caller sees: the handler filters its answer with `Caller.sees`."""
    TABLE = "table"
    """The tables that the request names: the handler asks `Caller.table` for each, before it looks at one."""
    TENANT = "tenant"
    """All of a tenant: needs a grant on the pattern `*`."""
    CLUSTER = "cluster"
    """All tenants: needs a token of the tenant `*`."""


@dataclass(frozen=True, slots=True)
class Rule:
    action: Action
    scope: Scope = Scope.NONE


_A, _S = Action, Scope
_OPEN, _KNOWN, _INTERNAL = Rule(_A.OPEN), Rule(_A.KNOWN), Rule(_A.INTERNAL)
_SEEN = Rule(_A.KNOWN, _S.LIST)
_READ, _WRITE = Rule(_A.READ, _S.TABLE), Rule(_A.WRITE, _S.TABLE)
_OPERATE, _ADMIN = Rule(_A.OPERATE, _S.TABLE), Rule(_A.ADMIN, _S.TABLE)
_OPERATE_CLUSTER = Rule(_A.OPERATE, _S.CLUSTER)

_FLIGHT = {
    "ListFlights": _SEEN,
    "GetFlightInfo": _READ,
    "GetSchema": _READ,
    "DoGet": _READ,
    "DoGet:follow": _INTERNAL,
    "DoGet:log": _INTERNAL,
    "DoPut": _WRITE,
    "DoExchange": _READ,
    "DoExchange:hot": _INTERNAL,
    "ListActions": _KNOWN,
    "DoAction:create_table": _ADMIN,
    "DoAction:drop_table": _ADMIN,
    "DoAction:flush": _OPERATE,
    "DoAction:topology": _SEEN,
    "DoAction:producer": _WRITE,
    "DoAction:cancel": Rule(_A.READ),
}
_CONTROL = {
    "CreateTable": _ADMIN,
    "DescribeTable": Rule(_A.KNOWN, _S.TABLE),
    "ListTables": _SEEN,
    "DropTable": _ADMIN,
    "Status": _SEEN,
    "ListShards": _SEEN,
    "Watermarks": _SEEN,
    "Flush": _OPERATE,
    "Evict": _OPERATE,
    "PausePersist": _OPERATE,
    "ResumePersist": _OPERATE,
    "Verify": _OPERATE,
    "Repair": _ADMIN,
}
_AUTH = {
    "CreateToken": Rule(_A.ADMIN, _S.TENANT),
    "ListTokens": Rule(_A.ADMIN, _S.TENANT),
    "RevokeToken": Rule(_A.ADMIN, _S.TENANT),
    "CanI": _KNOWN,
}
_INGEST = {
    "Status": _SEEN,
    "Flush": _OPERATE,
    "ListLogs": Rule(_A.OPERATE, _S.LIST),
    "Watermarks": _SEEN,
    "AdvancePersisted": _INTERNAL,
    "Evict": _OPERATE,
}
_PERSISTER = {
    "Status": _OPERATE_CLUSTER,
    "Pause": _OPERATE,
    "Resume": _OPERATE,
    "Verify": _OPERATE,
    "Repair": _ADMIN,
}
_QUERY = {"Query": _READ, "Status": _KNOWN}
_GRPC = {
    "proxist.controlplane.v1.ControlPlaneService": _CONTROL,
    "proxist.auth.v1.AuthService": _AUTH,
    "proxist.ingest.v1.IngestService": _INGEST,
    "proxist.persister.v1.PersisterService": _PERSISTER,
    "proxist.query.v1.QueryService": _QUERY,
    "grpc.health.v1.Health": {"Check": _OPEN, "Watch": _OPEN, "List": _KNOWN},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _KNOWN},
}
# Probes have no token. What /metrics counts, it counts per table of every tenant.
_HTTP = {"livez": _OPEN, "readyz": _OPEN, "health": _KNOWN, "metrics": _OPERATE_CLUSTER}

RULES = MappingProxyType(
    {f"flight/{name}": rule for name, rule in _FLIGHT.items()}
    | {f"grpc/{service}/{name}": rule for service, methods in _GRPC.items() for name, rule in methods.items()}
    | {f"http/{name}": rule for name, rule in _HTTP.items()}
    # A shard's memory is all of it, whatever the grant's pattern says: query processes attach, clients ask them.
    | {"attach": _INTERNAL}
)
