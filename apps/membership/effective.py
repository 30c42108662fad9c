"""What holds on a host: its own settings, and over them what its cluster sets."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hawker.core.errors import ConfigError
from hawker.core.membership import Kept
from hawker.core.settings import Settings
from hawker.core.storage.membership import CLUSTER_KEY, Membership

ROLE = {"scheduler": "scheduler", "seed": "peer", "peer": "peer"}


def check(settings: Settings, membership: Membership, roles: Sequence[str]) -> None:
    """Raise ConfigError where these roles are not what this host joined to be, or something is set
    that the manager tells."""
    folder = settings.membership_folder
    kind, cluster = membership.kind, membership.cluster_name
    leave = f"`hawker leave` and join again, or choose another --data than {settings.data}"
    if membership.removed:
        raise ConfigError(f"this host was removed from the cluster {cluster}", hint=leave)
    if "manager" in roles:
        raise ConfigError(
            f"this host joined the cluster {cluster}, and cannot be its manager, too", hint=leave
        )
    if ROLE[kind] not in roles:
        raise ConfigError(
            f"this host joined the cluster {cluster} as a {kind}, and would be none",
            hint=f"serve {ROLE[kind]}, too; or {leave}",
        )
    if kind != "scheduler" and "scheduler" in roles:
        raise ConfigError(
            f"this host joined the cluster {cluster} as a {kind}: no other would use its scheduler",
            hint=f"serve {ROLE[kind]} alone; or {leave}",
        )
    if "peer" in roles and settings.peer.seed != (kind == "seed"):
        raise ConfigError(
            f"peer.seed (--seed) is at odds with that this host joined {cluster} as a {kind}",
            hint=f"leave it out; or {leave}",
        )
    told = {
        "peer.schedulers (--scheduler)": settings.peer.schedulers,
        "scheduler.others": settings.scheduler.others,
    }
    for name, value in told.items():
        if value:
            raise ConfigError(f"{name} is what the manager tells this host", hint="leave it out")
    if settings.cluster.key_file != str(folder / CLUSTER_KEY):
        raise ConfigError(
            f"cluster.key_file (--cluster-key) is not the key of the cluster {cluster}",
            hint="leave it out",
        )


def merged(kept: Kept, before: Kept | None) -> Kept:
    """What is told, with the schedulers of before where there are none now.

    A manager that was away for long hears of schedulers one by one, and who said nothing yet may be
    at work all the same. Without any, hosts would each read origins for themselves.
    """
    if kept.schedulers or before is None:
        return kept
    return msgspec.structs.replace(kept, schedulers=before.schedulers)


def effective(own: Settings, told: Kept | None, url: str) -> Settings:
    """A host's own settings with what it was told over them; `url` is the host's, which is none of
    the other schedulers'."""
    if told is None:
        return own
    replace = msgspec.structs.replace
    set_here = {
        name: value
        for name in ("origin_reads", "origin_rate", "readers")
        if (value := getattr(told.configuration, name)) is not None
    }
    others = [other for other in told.schedulers if other != url]
    slots = told.configuration.upload_slots
    return replace(
        own,
        tenants={**own.tenants, **told.configuration.tenants},
        scheduler=replace(
            own.scheduler,
            **set_here,
            others=others,
            priorities=[*own.scheduler.priorities, *told.configuration.priorities],
        ),
        peer=replace(
            own.peer,
            schedulers=list(told.schedulers),
            upload_slots=own.peer.upload_slots if slots is None else slots,
        ),
    )
