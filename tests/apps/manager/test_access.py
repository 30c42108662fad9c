"""Who may do what, without any input or output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.apps.manager.access import (
    EVERYTHING,
    ROLES,
    TABLE,
    Grant,
    allowed,
    covers,
    narrowed,
    parse_permission,
    permission_text,
    reach,
)

permissions = st.sampled_from(sorted(EVERYTHING))
bounds = st.sampled_from(["", "a", "b"])
objects = st.sampled_from([None, "a", "b"])
grants = st.builds(Grant, st.frozensets(permissions, max_size=6), bounds, bounds)
many = st.lists(grants, max_size=4)


def test_root_may_do_everything_and_nobody_more() -> None:
    assert ROLES["root"] == EVERYTHING
    for held in ROLES.values():
        assert held <= EVERYTHING


def test_viewers_change_nothing_but_their_own_tokens() -> None:
    changes = {p for p in ROLES["viewer"] if p[1] != "read"}
    assert changes == {("tokens", "create"), ("tokens", "delete")}
    assert ROLES["viewer"] < ROLES["operator"] < ROLES["root"]


def test_only_root_touches_people() -> None:
    people = {
        p
        for p in EVERYTHING
        if p[0] in ("users", "roles", "bindings", "tenants") and p[1] != "read"
    }
    assert not people & ROLES["operator"] and people <= ROLES["root"]


@given(many, permissions, objects, objects)
def test_a_grant_reaches_what_is_within_it_and_nothing_else(
    held: list[Grant], permission: tuple[str, str], tenant: str | None, cluster: str | None
) -> None:
    expected = False
    for grant in held:
        inside = (not grant.tenant or grant.tenant == tenant) and (
            not grant.cluster or grant.cluster == cluster
        )
        expected = expected or (inside and permission in grant.permissions)
    assert allowed(held, permission, tenant, cluster) is expected


@given(many, permissions, objects, objects)
def test_lists_reach_what_may_be_read(
    held: list[Grant], permission: tuple[str, str], tenant: str | None, cluster: str | None
) -> None:
    found = any(t in ("", tenant) and c in ("", cluster) for t, c in reach(held, permission))
    assert found is allowed(held, permission, tenant, cluster)


@given(many, st.frozensets(permissions, max_size=6), permissions, objects, objects)
def test_a_token_only_takes_away(
    held: list[Grant],
    scopes: frozenset[tuple[str, str]],
    permission: tuple[str, str],
    tenant: str | None,
    cluster: str | None,
) -> None:
    left = narrowed(held, scopes)
    expected = permission in scopes and allowed(held, permission, tenant, cluster)
    assert allowed(left, permission, tenant, cluster) is expected
    assert narrowed(held, ()) == []


@given(many, many, permissions, objects, objects)
def test_who_covers_another_may_do_all_that_they_may(
    held: list[Grant],
    others: list[Grant],
    permission: tuple[str, str],
    tenant: str | None,
    cluster: str | None,
) -> None:
    if covers(held, others) and allowed(others, permission, tenant, cluster):
        assert allowed(held, permission, tenant, cluster)


def test_bounds_are_not_covered_from_inside() -> None:
    inside = [Grant(EVERYTHING, "a", "")]
    assert not covers(inside, [Grant(ROLES["viewer"])])
    assert not covers(inside, [Grant(ROLES["viewer"], "b")])
    assert covers(inside, [Grant(ROLES["viewer"], "a", "c")])
    assert covers([Grant(EVERYTHING)], inside)


@given(permissions)
def test_permissions_are_written_as_they_are_read(permission: tuple[str, str]) -> None:
    assert parse_permission(permission_text(permission)) == permission


@pytest.mark.parametrize("text", ["", "clusters", "clusters:", ":read", "clusters:*", "*", "a:b"])
def test_what_is_not_in_the_table_is_no_permission(text: str) -> None:
    with pytest.raises(ValueError, match="permissions"):
        parse_permission(text)


def test_a_tenant_s_grant_does_not_reach_users() -> None:
    assert not allowed([Grant(EVERYTHING, "a")], ("users", "update"))
    assert {"users", "roles", "audit"} <= set(TABLE)
