"""Who may do what: resources, verbs, the built-in roles, and the check. Pure.

A grant is a set of permissions within a tenant, a cluster, or everywhere. Everything that can be
asked for stands in `TABLE`; what does not is allowed to nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

Permission = tuple[str, str]

TABLE: Mapping[str, tuple[str, ...]] = {
    "clusters": ("read", "create", "update", "delete"),
    "members": ("read", "announce", "update", "delete"),
    "enrolments": ("read", "create", "delete"),
    "jobs": ("read", "create", "update"),
    "tasks": ("read",),
    "tenants": ("read", "create", "update", "delete"),
    "client-tokens": ("read", "create", "delete"),
    "applications": ("read", "create", "update", "delete"),
    "users": ("read", "create", "update"),
    "roles": ("read", "create", "update", "delete"),
    "bindings": ("read", "create", "delete"),
    "providers": ("read", "create", "update", "delete"),
    "tokens": ("read", "create", "delete"),
    "audit": ("read",),
}
"""Verbs by resource. `tokens` are always the caller's own."""

EVERYTHING: frozenset[Permission] = frozenset(
    (resource, verb) for resource, verbs in TABLE.items() for verb in verbs
)


def _of(*resources: str, verbs: Collection[str] = ()) -> frozenset[Permission]:
    return frozenset(
        (resource, verb)
        for resource, verb in EVERYTHING
        if resource in resources and (not verbs or verb in verbs)
    )


_VIEWER = _of(
    "clusters", "members", "jobs", "tasks", "tenants", "client-tokens", "applications", "roles",
    verbs=("read",),
)  # fmt: skip
ROLES: Mapping[str, frozenset[Permission]] = {
    "root": EVERYTHING,
    "operator": _VIEWER
    | _of("clusters", "members", "enrolments", "jobs", "applications", "tokens", "client-tokens")
    | _of("users", "bindings", "audit", verbs=("read",)),
    "viewer": _VIEWER | _of("tokens"),
}
"""The built-in roles; `tokens` gives nobody more than they have."""


class Grant(NamedTuple):
    """Permissions within a tenant and a cluster; empty: in every one, and outside of any."""

    permissions: frozenset[Permission]
    tenant: str = ""
    cluster: str = ""

    def holds(self, permission: Permission, tenant: str | None, cluster: str | None) -> bool:
        """Whether it allows this for what is of that tenant and cluster; None: of none."""
        return (
            permission in self.permissions
            and self.tenant in ("", tenant)
            and self.cluster in ("", cluster)
        )


def allowed(
    grants: Iterable[Grant],
    permission: Permission,
    tenant: str | None = None,
    cluster: str | None = None,
) -> bool:
    """Whether any grant allows this for what is of that tenant and cluster; None: of none."""
    return any(grant.holds(permission, tenant, cluster) for grant in grants)


def reach(grants: Iterable[Grant], permission: Permission) -> set[tuple[str, str]]:
    """The (tenant, cluster) within which this is allowed somewhere; ("", "") is everywhere."""
    return {(g.tenant, g.cluster) for g in grants if permission in g.permissions}


def narrowed(grants: Iterable[Grant], scopes: Collection[Permission]) -> list[Grant]:
    """What is left of grants under a token with these scopes; under none, nothing."""
    kept = frozenset(scopes)
    return [g._replace(permissions=g.permissions & kept) for g in grants if g.permissions & kept]


def covers(grants: Collection[Grant], others: Iterable[Grant]) -> bool:
    """Whether whoever has `grants` may do all that `others` allow, so that nobody raises a right
    they do not have."""
    return all(
        allowed(grants, permission, other.tenant or None, other.cluster or None)
        for other in others
        for permission in other.permissions
    )


def parse_permission(text: str) -> Permission:
    """`resource:verb`; raises ValueError where there is no such thing."""
    resource, _, verb = text.partition(":")
    if verb not in TABLE.get(resource, ()):
        raise ValueError(f"{text!r} is not one of the permissions, such as 'clusters:read'")
    return resource, verb


def permission_text(permission: Permission) -> str:
    return ":".join(permission)
