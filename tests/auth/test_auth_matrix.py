"""Default deny: every entry of every door × every kind of caller, on a running cluster."""

from __future__ import annotations

import pytest
from auth_calls import Doors, Outcome
from auth_cluster import CANARY_TABLE, TABLE, Guarded, rows
from auth_entries import all_entries, grpc_methods, http_routes
from pyarrow import flight

import proxist
from proxist.auth.rules import RULES
from proxist.pb import auth_pb2, auth_pb2_grpc
from proxist.rpc.flight_server import FlightHandler
from proxist.rpc.grpc_client import connect

NOBODY: set[str] = set()
INTERNAL = {"internal"}
READ = {"reader", "admin", "internal"}
WRITE = {"writer", "admin", "internal"}
OPERATE = {"operator", "admin", "cluster", "internal"}
ADMIN = {"admin", "internal"}
CLUSTER = {"cluster", "internal"}
KNOWN = {"reader", "writer", "operator", "admin", "cluster", "internal", "other tables", "wrong tenant"}
ALL = KNOWN | {"none", "garbage", "unknown", "expired", "revoked"}

# Written by hand, apart from the rules of the code: whoever adds a method says here, too, who may call it.
CONTROL, INGEST = "grpc/proxist.controlplane.v1.ControlPlaneService/", "grpc/proxist.ingest.v1.IngestService/"
WHO_MAY = {
    "flight/ListFlights": KNOWN,
    "flight/GetFlightInfo": READ,
    "flight/GetSchema": READ,
    "flight/DoGet": READ,
    "flight/DoGet:follow": INTERNAL,
    "flight/DoGet:log": INTERNAL,
    "flight/DoPut": WRITE,
    "flight/DoExchange": READ,
    "flight/DoExchange:hot": INTERNAL,
    "flight/ListActions": KNOWN,
    "flight/DoAction:create_table": ADMIN,
    "flight/DoAction:drop_table": ADMIN,
    "flight/DoAction:flush": OPERATE,
    "flight/DoAction:topology": KNOWN,
    "flight/DoAction:producer": WRITE,
    "flight/DoAction:cancel": READ | {"other tables", "wrong tenant"},
    CONTROL + "CreateTable": ADMIN,
    CONTROL + "DescribeTable": KNOWN - {"other tables", "wrong tenant"},
    CONTROL + "ListTables": KNOWN,
    CONTROL + "DropTable": ADMIN,
    CONTROL + "Status": KNOWN,
    CONTROL + "ListShards": KNOWN,
    CONTROL + "Watermarks": KNOWN,
    CONTROL + "Flush": OPERATE,
    CONTROL + "Evict": OPERATE,
    CONTROL + "PausePersist": OPERATE,
    CONTROL + "ResumePersist": OPERATE,
    CONTROL + "Verify": OPERATE,
    CONTROL + "Repair": ADMIN,
    "grpc/proxist.auth.v1.AuthService/CreateToken": ADMIN,
    "grpc/proxist.auth.v1.AuthService/ListTokens": ADMIN,
    "grpc/proxist.auth.v1.AuthService/RevokeToken": ADMIN | {"wrong tenant"},
    "grpc/proxist.auth.v1.AuthService/CanI": KNOWN,
    INGEST + "Status": KNOWN,
    INGEST + "Flush": OPERATE,
    INGEST + "ListLogs": OPERATE | {"other tables", "wrong tenant"},
    INGEST + "Watermarks": KNOWN,
    INGEST + "AdvancePersisted": INTERNAL,
    INGEST + "Evict": OPERATE,
    "grpc/proxist.persister.v1.PersisterService/Status": CLUSTER,
    "grpc/proxist.persister.v1.PersisterService/Pause": OPERATE,
    "grpc/proxist.persister.v1.PersisterService/Resume": OPERATE,
    "grpc/proxist.persister.v1.PersisterService/Verify": OPERATE,
    "grpc/proxist.persister.v1.PersisterService/Repair": ADMIN,
    "grpc/proxist.query.v1.QueryService/Query": READ,
    "grpc/proxist.query.v1.QueryService/Status": KNOWN,
    "grpc/grpc.health.v1.Health/Check": ALL,
    "grpc/grpc.health.v1.Health/Watch": ALL,
    "grpc/grpc.health.v1.Health/List": KNOWN,
    "grpc/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": KNOWN,
    "http/livez": ALL,
    "http/readyz": ALL,
    "http/health": KNOWN,
    "http/metrics": CLUSTER,
    "attach": INTERNAL,
}
WITHOUT_IDENTITY = ("none", "garbage", "unknown", "expired", "revoked")
GHOST = "acmeghost"
"""No table: those who may do something to it are told so, and nothing is done to the one that is there."""


def actions(guarded: Guarded) -> dict[str, set[str]]:
    """What the nodes list, by address."""
    headers = [(b"authorization", f"Bearer {guarded.tokens['admin']}".encode())]
    found = {}
    for role in ("query", "ingest"):
        node = guarded.endpoints[role][0]
        for uri in (node["flight"], node["flight_unix"]):
            with flight.connect(uri) as client:
                listed = client.list_actions(flight.FlightCallOptions(headers=headers))
                found[uri] = {action.type for action in listed}
    return found


def test_every_entry_of_every_door_has_a_rule_and_a_line_in_the_matrix(guarded: Guarded) -> None:
    entries = all_entries(set().union(*actions(guarded).values()))
    assert entries == set(RULES), "a door and the rules differ"
    assert entries == set(WHO_MAY), "a door and the matrix differ"


def test_the_listener_passes_every_verb_to_the_guard() -> None:
    from proxist.rpc.flight_server import _Listener

    verbs = {name for name in vars(FlightHandler) if not name.startswith("_")}
    assert verbs <= vars(_Listener).keys()
    for verb in verbs:
        assert "_run" in vars(_Listener)[verb].__code__.co_names, verb


def walk(guarded: Guarded, who: str, tenant: str, table: str) -> dict[str, list[Outcome]]:
    """Every entry at every node, as the caller `who`."""
    doors = Doors(guarded.endpoints, guarded.tokens[who], tenant, table)
    found: dict[str, list[Outcome]] = {}
    for uri, names in actions(guarded).items():
        for entry, seen in doors.flight(uri, names):
            found.setdefault(entry, []).append(seen)
    for entry, seen in [*doors.grpc(), *doors.http(http_routes())]:
        found.setdefault(entry, []).append(seen)
    found["attach"] = [doors.attach(guarded.endpoints["ingest"][0]["attach"])]
    return found


# At a query node these are public queries, or nothing: the internal kinds are the owners'.
ONLY_AT_OWNERS = ("flight/DoGet:follow", "flight/DoGet:log", "flight/DoExchange:hot")
# A query node answers them with the owner's address, an owner without the query node's schema.
ASKED_FOR_ITSELF = ("flight/GetFlightInfo", "flight/GetSchema")


@pytest.mark.parametrize("who", sorted(ALL))
def test_default_deny(guarded: Guarded, who: str) -> None:
    outside = who in ("wrong tenant", "other tables")
    found = walk(guarded, who, "acme" if who == "wrong tenant" else "", TABLE if outside else GHOST)
    assert found.keys() == WHO_MAY.keys()
    wrong = []
    for entry, outcomes in found.items():
        for seen in outcomes:
            expected = "in" if who in WHO_MAY[entry] else "unauthenticated" if who in WITHOUT_IDENTITY else "denied"
            if entry in ONLY_AT_OWNERS and "DoGet here" not in seen.text and expected == "denied":
                assert not seen.ok, (entry, seen)
                if "INVALID_ARGUMENT" in seen.text:
                    continue  # a query node, which has no such ticket
            if expected == "denied" and outside and _unknown_or_unserved(seen):
                continue
            if expected == "in" and outside and RULES[entry].scope == "list" and seen.kind == "denied":
                continue  # a list of what the caller named and may not see; what it shows is another test's
            if expected == "denied" and entry in ASKED_FOR_ITSELF and "not served" in seen.text:
                continue
            if seen.kind != expected:
                wrong.append((entry, expected, seen))
    assert not wrong, "\n".join(f"{entry}: {want}, not {seen.kind}: {seen.text[:200]}" for entry, want, seen in wrong)


def _unknown_or_unserved(seen: Outcome) -> bool:
    """What names no tenant is looked up in the caller's own, where the other tenant's table is not."""
    return not seen.ok and any(code in seen.text for code in ('"NOT_FOUND"', "is not served here", "There is no table"))


@pytest.mark.parametrize("who", ["wrong tenant", "other tables"])
def test_a_forbidden_table_answers_like_one_that_does_not_exist(guarded: Guarded, who: str) -> None:
    tenant = "acme" if who == "wrong tenant" else ""
    there, not_there = (walk(guarded, who, tenant, table) for table in (TABLE, "acmeghxxx"))
    for entry in there:
        if entry.startswith("http/") or RULES[entry].scope == "list":
            continue
        assert [_same(o, TABLE) for o in there[entry]] == [_same(o, "acmeghxxx") for o in not_there[entry]], entry


def _same(seen: Outcome, table: str) -> tuple[str, str]:
    return seen.kind, seen.text.replace(table, "X")


def test_lists_show_another_tenant_nothing(guarded: Guarded) -> None:
    for entry, outcomes in walk(guarded, "admin", "", GHOST).items():
        for seen in outcomes:
            assert CANARY_TABLE not in seen.text, entry
    for entry, outcomes in walk(guarded, "other tables", "", GHOST).items():
        for seen in outcomes:
            assert TABLE not in seen.text, entry


def test_a_revocation_counts_at_once_and_nothing_that_is_open_outlives_it(guarded: Guarded) -> None:
    token = guarded.token("acme", "admin")
    with proxist.connect(guarded.endpoints["query"][0]["flight"], token=token) as connection:
        session = connection.session()
        scan = {"scan": {"table": TABLE}}
        assert session.query(scan).num_rows == 2
        connection.table(TABLE).write(rows("B"))
        channel = connect(guarded.endpoints["controlplane"]["grpc"], credential=lambda: guarded.tokens["admin"])
        auth_pb2_grpc.AuthServiceStub(channel).RevokeToken(auth_pb2.RevokeTokenRequest(id=token.split("_")[1]))
        channel.close()

        def refused() -> bool:
            try:
                connection.query(scan)
            except proxist.errors.Unauthenticated as error:
                return error.details["reason"] == "revoked"
            return False

        guarded.cluster.until(refused, "the token is refused", 5.0)
        with pytest.raises(proxist.errors.Unauthenticated, match="revoked"):
            session.query(scan)
        with pytest.raises(proxist.errors.Unauthenticated, match="revoked"):
            connection.table(TABLE).write(rows("B"))
        session.close()


def test_there_is_no_way_to_a_token_of_another_tenant(guarded: Guarded) -> None:
    channel = connect(guarded.endpoints["controlplane"]["grpc"], credential=lambda: guarded.tokens["admin"])
    try:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        for tenant in ("umbra", "*"):
            with pytest.raises(proxist.errors.PermissionDenied):
                stub.CreateToken(auth_pb2.CreateTokenRequest(tenant=tenant, grants=[auth_pb2.Grant(role="admin")]))
        mine = {token.tenant for token in stub.ListTokens(auth_pb2.ListTokensRequest()).tokens}
        assert mine == {"acme"}
        theirs = str(guarded.tokens["wrong tenant"]).split("_")[1]
        with pytest.raises(proxist.errors.NotFound):
            stub.RevokeToken(auth_pb2.RevokeTokenRequest(id=theirs))
        made = stub.CreateToken(auth_pb2.CreateTokenRequest(grants=[auth_pb2.Grant(role="reader", tables="a*")]))
        assert made.token.tenant == "acme"
        assert made.token.expires_ns > made.token.created_ns
    finally:
        channel.close()
    assert len({name for name, _ in grpc_methods()}) > 20
