"""The decision by itself: roles, patterns, tenants; tokens, the cluster's secret, the guard's cache."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxist.auth.cluster import LIFE_S, ClusterSecret
from proxist.auth.guard import TOKENS, open_guard, token_guard
from proxist.auth.identity import LOCAL, Caller, Grant, Identity, check_tenant, enter, may, parse_grant
from proxist.auth.rules import RULES, Action, Rule, Scope
from proxist.auth.tokens import TokenRecord, new_token, token_id
from proxist.config import ServiceConfig, load
from proxist.errors import ConfigError, InternalError, InvalidArgument, NotFound, PermissionDenied, Unauthenticated

NOW = 10**18
ACTIONS = (Action.READ, Action.WRITE, Action.OPERATE, Action.ADMIN)


def who(*grants: str, tenant: str = "acme") -> Identity:
    return Identity("t", tenant, tuple(parse_grant(grant) for grant in grants))


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("reader", "r"), ("writer", "w"), ("operator", "o"), ("admin", "rwoa")],
)
def test_a_role_allows_its_actions_and_no_other(role: str, allowed: str) -> None:
    assert "".join(a[0] for a in ACTIONS if may(who(role), a, "acme", "trades")) == allowed


def test_a_grant_ends_at_its_pattern_and_its_tenant() -> None:
    mine = who("reader:trades_*", "writer:trades_x")
    assert may(mine, Action.READ, "acme", "trades_1")
    assert not may(mine, Action.READ, "acme", "trades")
    assert may(mine, Action.WRITE, "acme", "trades_x")
    assert not may(mine, Action.WRITE, "acme", "trades_1")
    assert not may(mine, Action.READ, "umbra", "trades_1")


def test_a_token_of_every_tenant_touches_no_rows() -> None:
    runner = who("admin", tenant="*")
    assert may(runner, Action.OPERATE, "acme", "trades")
    assert not may(runner, Action.READ, "acme", "trades")
    assert not may(runner, Action.WRITE, "acme", "trades")
    with pytest.raises(PermissionDenied):
        enter(runner, "flight/DoGet")


@given(st.lists(st.sampled_from(["reader", "writer", "operator", "admin"])), st.text(max_size=8), st.text(max_size=8))
def test_nobody_reaches_another_tenant(roles: list[str], tenant: str, table: str) -> None:
    mine = Identity("t", "acme", tuple(Grant(role) for role in roles))
    if tenant != "acme":
        assert not any(may(mine, action, tenant, table) for action in Action)


@pytest.mark.parametrize("entry", sorted(RULES))
def test_an_identity_without_grants_reads_writes_and_commands_nothing(entry: str) -> None:
    if RULES[entry].action in (Action.OPEN, Action.KNOWN):
        return
    with pytest.raises(PermissionDenied):
        enter(who(), entry)


def test_what_has_no_rule_is_refused_to_everybody_but_a_door_without_auth() -> None:
    for identity in (who("admin"), who("admin", tenant="*"), Identity("i", "*", kind="internal")):
        with pytest.raises(PermissionDenied):
            enter(identity, "grpc/proxist.new.v1.New/Method")
    assert enter(LOCAL, "grpc/proxist.new.v1.New/Method").trusted


def test_the_tenant_of_a_request_is_the_tokens_or_refused() -> None:
    caller = enter(who("reader"), "flight/DoGet")
    assert caller.table("trades") == caller.table("trades", "acme") == "acme"
    with pytest.raises(PermissionDenied) as wrong:
        caller.table("trades", "umbra")
    with pytest.raises(PermissionDenied) as forbidden:
        enter(who("reader:x"), "flight/DoGet").table("trades")
    assert wrong.value.message == forbidden.value.message


def test_a_handler_that_did_not_ask_gives_no_answer() -> None:
    caller = Caller(who("admin"), Rule(Action.ADMIN, Scope.TABLE), "grpc/x")
    with pytest.raises(InternalError):
        caller.check_asked()
    caller.table("trades")
    caller.check_asked()


def test_not_found_names_only_what_the_caller_sees() -> None:
    caller = enter(who("reader:a*"), "flight/DoGet")
    with (
        pytest.raises(NotFound, match=r"Tables are: abc\."),
        caller.hiding("axx", lambda: [("acme", "abc"), ("acme", "bcd"), ("umbra", "acd")]),
    ):
        raise NotFound("There is no table 'axx'. Tables are: abc, bcd.")


@pytest.mark.parametrize("text", ["root", "reader:", "reader:a b", "reader:" + "a" * 129, "", "Reader"])
def test_a_malformed_grant_is_refused_with_the_rule(text: str) -> None:
    if text == "reader:":
        assert parse_grant(text) == Grant("reader", "*")
        return
    with pytest.raises(InvalidArgument):
        parse_grant(text)


@pytest.mark.parametrize("tenant", ["", "system", "INFORMATION_SCHEMA", "a/b", "1a", "a" * 65, "..", "**"])
def test_a_tenant_is_a_name_that_is_no_database_of_the_store(tenant: str) -> None:
    with pytest.raises(InvalidArgument):
        check_tenant(tenant)


# ---- the guard --------------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    value: bytes
    mod_revision: int


class Mirror:
    def __init__(self) -> None:
        self.keys: dict[str, Kept] = {}
        self.synced = True
        self.now_ns = NOW
        self.guard = token_guard(
            self.keys.get, lambda: self.synced, ClusterSecret(("s" * 32,)), now_ns=lambda: self.now_ns
        )

    def put(self, record: TokenRecord, revision: int) -> None:
        self.keys[TOKENS + record.id] = Kept(json.dumps(record.to_json()).encode(), revision)


def test_expiry_revocation_and_change_count_at_the_next_call() -> None:
    mirror = Mirror()
    id_, token, hash_ = new_token()
    record = TokenRecord(id_, hash_, "acme", (Grant("reader"),), expires_ns=NOW + 5)
    mirror.put(record, 1)
    for _ in range(2):  # the second time from the cache
        assert mirror.guard.admit("flight/DoGet", f"Bearer {token}").identity.tenant == "acme"
    mirror.now_ns = NOW + 5
    with pytest.raises(Unauthenticated, match="expired"):
        mirror.guard.admit("flight/DoGet", token)
    mirror.now_ns = NOW
    mirror.put(replace(record, grants=(Grant("writer"),)), 2)
    with pytest.raises(PermissionDenied, match="may not read"):
        mirror.guard.admit("flight/DoGet", token)
    mirror.put(replace(record, revoked_ns=NOW), 3)
    with pytest.raises(Unauthenticated, match="revoked"):
        mirror.guard.admit("flight/DoGet", token)
    del mirror.keys[TOKENS + id_]
    with pytest.raises(Unauthenticated, match="unknown"):
        mirror.guard.admit("flight/DoGet", token)


def test_a_wrong_secret_and_an_unknown_id_get_one_answer() -> None:
    mirror = Mirror()
    id_, _, hash_ = new_token()
    mirror.put(TokenRecord(id_, hash_, "acme", (Grant("reader"),), revoked_ns=1), 1)
    told = []
    for token in (f"px_{id_}_{'0' * 48}", f"px_{'0' * 12}_{'0' * 48}"):
        with pytest.raises(Unauthenticated) as error:
            mirror.guard.admit("flight/DoGet", token)
        told.append(error.value.to_json())
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "credential", [None, "", "Bearer ", "px_", "pxi_a_1_2", "x" * 10_000, "Bearer Bearer", "pxi_é"]
)
def test_what_is_no_token_is_refused(credential: str | None) -> None:
    with pytest.raises(Unauthenticated):
        Mirror().guard.admit("flight/DoGet", credential)


def test_without_auth_everybody_is_let_in_and_nothing_is_asked() -> None:
    assert open_guard().admit("attach", None).identity is LOCAL
    assert not open_guard().on


def test_the_id_is_read_from_whole_tokens_alone() -> None:
    id_, token, _ = new_token()
    assert token_id(token) == id_
    assert [token_id(text) for text in (token + "0", token[:-1], token.upper(), " " + token)] == [None] * 4


def test_a_record_reads_back_as_written() -> None:
    record = TokenRecord("0" * 12, "h", "acme", (Grant("reader", "a*"), Grant("admin")), "n", 1, 2, 3, "me")
    assert TokenRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


# ---- the cluster's secret ---------------------------------------------------------------------------------------------


def test_a_signed_token_is_good_for_its_life_and_for_its_secret() -> None:
    now = [1_000_000.0]
    secret, other = (ClusterSecret((letter * 32,), lambda: now[0]) for letter in "ab")
    token = secret.sign("query-0")
    identity = secret.verify(token)
    assert identity is not None
    assert (identity.id, identity.kind) == ("query-0", "internal")
    assert other.verify(token) is None
    assert secret.verify(token.replace("query-0", "ingest-0")) is None
    now[0] += LIFE_S
    assert secret.verify(token) is None


def test_a_secret_is_rotated_without_a_gap() -> None:
    old, both, new = ClusterSecret(("a" * 32,)), ClusterSecret(("b" * 32, "a" * 32)), ClusterSecret(("b" * 32,))
    assert both.verify(old.sign("x"))
    assert new.verify(both.sign("x"))
    assert not new.verify(old.sign("x"))


@pytest.mark.parametrize("text", ["", "short\n", "a" * 32 + "\nshort\n"])
def test_a_weak_secret_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(ConfigError, match="openssl rand") as error:
        ClusterSecret.read(tmp_path / "secret")
    assert "short" not in error.value.message
    with pytest.raises(ConfigError, match="cannot be read"):
        ClusterSecret.read(tmp_path / "nothing")


def test_auth_is_off_by_default_and_no_third_word_is_taken() -> None:
    assert load(ServiceConfig, ["--name", "x"], env={}).auth == "off"
    assert load(ServiceConfig, ["--name", "x", "--auth", "tokens"], env={"PROXIST_TOKEN": "px"}).auth == "tokens"
    with pytest.raises(ConfigError):
        load(ServiceConfig, ["--name", "x", "--auth", "on"], env={})
