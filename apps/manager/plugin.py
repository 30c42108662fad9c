"""Entry point of the manager role; what it needs is imported when the role is made."""

from __future__ import annotations

from hawker.core.contracts import RoleApp, RoleContext
from hawker.pluggy_specs import hookimpl


@hookimpl
def hawker_role(name: str, context: RoleContext) -> RoleApp:
    from hawker.apps.manager.app import ManagerRole

    return ManagerRole(context)
