"""Roles, grants and the decision. Pure: no clock, no store, no transport."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from proxist.auth.rules import RULES, Action, Rule, Scope
from proxist.errors import InternalError, InvalidArgument, NotFound, PermissionDenied
from proxist.model.table import DEFAULT_TENANT

ROLES: dict[str, frozenset[Action]] = {
    "reader": frozenset({Action.READ}),
    "writer": frozenset({Action.WRITE}),
    "operator": frozenset({Action.OPERATE}),
    "admin": frozenset({Action.READ, Action.WRITE, Action.OPERATE, Action.ADMIN}),
}
EVERY_TENANT = "*"
CLUSTER_ROLES = ("operator", "admin")
"""A token of every tenant runs the cluster; it reads and writes no tenant's rows, whatever its role."""
PATTERN_RULE = "letters, digits, _, -, . and the wildcards * and ?, at most 128 characters"
_PATTERN = re.compile(r"[A-Za-z0-9_.*?-]{1,128}")
_TENANT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = ("system", "information_schema")
"""Databases of ClickHouse itself; a tenant's tables live in the database of its name."""


@dataclass(frozen=True, slots=True)
class Grant:
    """`role` on the tables whose name matches the glob `tables`."""

    role: str
    tables: str = "*"

    def __str__(self) -> str:
        return f"{self.role}:{self.tables}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `kind` is "token", "internal" (another service of this cluster) or "local" (a door without auth)."""

    id: str
    tenant: str
    grants: tuple[Grant, ...] = ()
    kind: str = "token"

    @property
    def trusted(self) -> bool:
        """Whether it may name any tenant and do anything: a service, or whoever reaches a door without auth."""
        return self.kind != "token"


LOCAL = Identity("local", EVERY_TENANT, kind="local")


def may(identity: Identity, action: Action, tenant: str, table: str) -> bool:
    """Whether `identity` may do `action` to one table, which need not exist."""
    if identity.trusted:
        return True
    if action in (Action.OPEN, Action.KNOWN):
        return _in_tenant(identity, tenant) and any(_matches(grant.tables, table) for grant in identity.grants)
    if identity.tenant == EVERY_TENANT and action in (Action.READ, Action.WRITE):
        return False
    return _in_tenant(identity, tenant) and any(
        action in ROLES.get(grant.role, ()) and _matches(grant.tables, table) for grant in identity.grants
    )


def may_enter(identity: Identity, rule: Rule) -> bool:
    """Whether the entry is open to it at all; tables are asked for one by one afterwards."""
    if identity.trusted or rule.action in (Action.OPEN, Action.KNOWN):
        return True
    if rule.action is Action.INTERNAL:
        return False
    grants = [grant for grant in identity.grants if rule.action in ROLES.get(grant.role, ())]
    if rule.scope in (Scope.TENANT, Scope.CLUSTER):
        grants = [grant for grant in grants if grant.tables == "*"]
    if rule.scope is Scope.CLUSTER and identity.tenant != EVERY_TENANT:
        return False
    if identity.tenant == EVERY_TENANT and rule.action in (Action.READ, Action.WRITE):
        return False
    return bool(grants)


def _in_tenant(identity: Identity, tenant: str) -> bool:
    return identity.tenant in (EVERY_TENANT, tenant)


@lru_cache(maxsize=4096)
def _matches(pattern: str, table: str) -> bool:
    return fnmatchcase(table, pattern)


@dataclass(slots=True)
class Caller:
    """An identity at one entry of a door: what a handler asks. For one call, one thread."""

    identity: Identity
    rule: Rule
    entry: str = ""
    asked: bool = field(default=False, compare=False)
    """Whether the handler has asked for a table; a TABLE entry that never asked is a bug, see `check_asked`."""

    def tenant(self, asked: str = "") -> str:
        """The caller's tenant. A request may name it, but no other one: PermissionDenied."""
        own = self.identity.tenant
        if self.identity.trusted or own == EVERY_TENANT:
            return asked or DEFAULT_TENANT
        if asked not in ("", own):
            raise self.denied()
        return own

    def table(self, name: str, tenant: str = "") -> str:
        """The tenant in which `name` is to be looked up. Raises PermissionDenied, the same whether the table exists
        or not, where the caller may not do this entry's action to it."""
        self.asked = True
        try:
            found = self.tenant(tenant)
        except PermissionDenied:
            raise self.denied(name) from None
        if not may(self.identity, self.rule.action, found, name):
            raise self.denied(name)
        return found

    def sees(self, tenant: str, name: str) -> bool:
        """Whether a list may show the table to the caller."""
        self.asked = True
        return may(self.identity, self.rule.action, tenant, name)

    def at(self, entry: str) -> Caller:
        """The same caller at another entry. Raises PermissionDenied where it may not come in there."""
        return enter(self.identity, entry)

    @property
    def trusted(self) -> bool:
        return self.identity.trusted

    def denied(self, table: str | None = None) -> PermissionDenied:
        """The one refusal: it says what the caller asked for and nothing of what exists."""
        verb = _VERBS[self.rule.action]
        ask = self.rule.action if self.rule.action in ROLES["admin"] else Action.READ
        what = "do this" if table is None else f"{verb} table {table!r}, or there is no such table"
        return PermissionDenied(
            f"This token may not {what}. Look at what it may with `pxctl auth can-i {ask} TABLE`, and ask "
            "an administrator of your tenant for a token with that right."
        )

    @contextmanager
    def hiding(self, name: str, visible: Callable[[], Iterable[tuple[str, str]]]) -> Iterator[None]:
        """NotFound raised inside names only tables that the caller sees; `visible` gives (tenant, table) of all."""
        try:
            yield
        except NotFound as error:
            if self.trusted or "shard" in error.details:
                raise
            known = ", ".join(sorted(t for owner, t in visible() if self.sees(owner, t))) or "none that you may see"
            raise NotFound(
                f"There is no table {name!r}. Tables are: {known}. Create it, or correct the name.", table=name
            ) from None

    def check_asked(self) -> None:
        """Raises InternalError where a handler of a TABLE entry has not asked for its table: no answer leaves then."""
        if self.rule.scope is Scope.TABLE and not self.asked and not self.trusted:
            raise InternalError(f"{self.entry} answered without asking who may. The answer was withheld; report it.")


_VERBS = {
    Action.OPEN: "see",
    Action.KNOWN: "see",
    Action.READ: "read",
    Action.WRITE: "write",
    Action.OPERATE: "operate",
    Action.ADMIN: "administer",
    Action.INTERNAL: "use",
}


def enter(identity: Identity, entry: str) -> Caller:
    """The caller at `entry`. Raises PermissionDenied where the entry has no rule or the identity not the right."""
    rule = RULES.get(entry)
    if rule is None:
        if identity.kind == "local":
            return local_caller(entry)  # the handler says better what it does not serve
        raise PermissionDenied("This is not served here, or not to you. See `pxctl auth can-i` and the public surface.")
    caller = Caller(identity, rule, entry)
    if not may_enter(identity, rule):
        if rule.action is Action.INTERNAL:
            raise PermissionDenied(
                "Only services of the cluster may do this. Ask a query node for reads, the control plane for commands."
            )
        if rule.scope is Scope.CLUSTER:
            raise PermissionDenied(
                "This shows or changes things of every tenant. It needs a token of tenant `*`: an administrator of the "
                "cluster makes one with `pxctl auth create-token --tenant '*' --grant operator`."
            )
        raise PermissionDenied(
            f"This token may not {_VERBS[rule.action]} "
            + ("all tables of its tenant" if rule.scope is Scope.TENANT else "any table")
            + f". It needs a grant such as `{_needed(rule.action)}:*`; ask an administrator of your tenant for one."
        )
    return caller


def _needed(action: Action) -> str:
    return next(role for role, actions in ROLES.items() if action in actions)


def local_caller(entry: str = "") -> Caller:
    """Whoever reaches a door that has no auth: loopback, or `insecure: true`."""
    return Caller(LOCAL, RULES.get(entry, Rule(Action.OPEN)), entry)


def caller_of(context: Any) -> Caller:
    """The caller of a gRPC method, as its door found it. A context that no door made is a test's or this process' own."""
    caller = getattr(context, "proxist_caller", None)
    return caller if isinstance(caller, Caller) else local_caller()


def parse_grant(text: str) -> Grant:
    """`role` or `role:pattern`. Raises InvalidArgument."""
    role, _, tables = text.partition(":")
    return checked_grant(role.strip(), tables.strip() or "*")


def checked_grant(role: str, tables: str) -> Grant:
    """Raises InvalidArgument for an unknown role or a malformed pattern."""
    if role not in ROLES:
        raise InvalidArgument(f"{role!r} is not a role. Use one of {', '.join(ROLES)}, for example `reader:trades*`.")
    if not _PATTERN.fullmatch(tables):
        raise InvalidArgument(f"{tables!r} is not a table pattern: it must be {PATTERN_RULE}.")
    return Grant(role, tables)


def check_tenant(tenant: str) -> str:
    """A tenant's name, or `*`. Raises InvalidArgument."""
    if tenant != EVERY_TENANT and (not _TENANT.fullmatch(tenant) or tenant.lower() in _RESERVED):
        raise InvalidArgument(
            f"{tenant!r} is not a tenant's name: letters, digits and _, not beginning with a digit, 64 at most, and not "
            f"{' or '.join(_RESERVED)}. Use * for a token that runs the cluster."
        )
    return tenant
