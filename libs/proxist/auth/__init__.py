"""Who calls, and what they may do: one authoriser behind every door.

In: an entry of a door (`rules.RULES` names every one) and the credential that came with the call. Out: a `Caller`,
which knows its tenant and says for each table whether it may be touched; or Unauthenticated, PermissionDenied. What has
no rule is refused. `identity` and `rules` are pure; `guard` adds the tokens of etcd and a bounded cache.

    tokens      px_<id>_<secret>: made, parsed, hashed; the record that etcd keeps
    rules       every Flight verb and action, gRPC method, HTTP route and the attach socket, with what it needs
    identity    roles, grants, Identity, Caller: the decision
    cluster     the cluster's secret: services among themselves
    guard       what a door holds
    outgoing    what this process presents when it calls another service
    store       create, list, revoke in etcd

The SDK imports `outgoing` alone. Places left free: OIDC is one more `Verifier` of guard, quotas ask `Caller.identity.id`, the audit log is `Guard.observe`.
"""
