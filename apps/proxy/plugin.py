"""Entry point of the proxy role; what it needs is imported when the role is made."""

from __future__ import annotations

from hawker.core.contracts import RoleApp, RoleContext
from hawker.pluggy_specs import hookimpl


@hookimpl
def hawker_role(name: str, context: RoleContext) -> RoleApp:
    from hawker.apps.proxy.app import ProxyRole

    return ProxyRole(context)
