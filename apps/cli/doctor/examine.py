"""All checks, each by itself: one that cannot be made keeps none of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hawker.apps.cli.doctor import machine, network, trust
from hawker.apps.cli.doctor.finding import FAILED, Finding
from hawker.core.errors import HawkerError
from hawker.core.settings import Settings
from hawker.core.storage.membership import load_membership

LONGEST = 15.0

LOCAL: Sequence[tuple[str, Callable[[Settings], Finding]]] = (
    ("data directory", machine.data_directory),
    ("keys and socket", machine.secrets),
    ("disk", machine.disk),
    ("quota", machine.quota),
    ("reflink", machine.reflink),
    ("open files", machine.open_files),
    ("membership", trust.membership),
    ("TLS", trust.tls),
    ("cluster key", trust.cluster_key),
    ("plugins", trust.plugins),
)


async def examine(settings: Settings, origin: str = "") -> list[Finding]:
    """What each check found, in a fixed order; ends within about `LONGEST` seconds a check."""
    checks: list[Awaitable[list[Finding]]] = [
        _made(name, _in_thread(check, settings)) for name, check in LOCAL
    ]
    checks.append(_made("port", _one(network.port(settings))))
    if settings.peer.advertise:
        checks.append(_made("advertised URL", _one(network.advertised(settings))))
    for url in [*settings.peer.schedulers, *await asyncio.to_thread(_told, settings)]:
        checks.append(_made(f"scheduler {url}", network.scheduler(settings, url)))
    if origin:
        checks.append(_made("origin", _one(network.origin(settings, origin))))
    return [finding for found in await asyncio.gather(*checks) for finding in found]


def _told(settings: Settings) -> Sequence[str]:
    """The schedulers that a manager told this host."""
    try:
        known = load_membership(settings.membership_folder)
    except HawkerError:
        return ()
    return () if known is None or known.told is None else known.told.schedulers


async def _in_thread(check: Callable[[Settings], Finding], settings: Settings) -> list[Finding]:
    return [await asyncio.to_thread(check, settings)]


async def _one(check: Awaitable[Finding]) -> list[Finding]:
    return [await check]


async def _made(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(LONGEST):
            return await check
    except TimeoutError:
        return [Finding(name, FAILED, f"no result within {LONGEST:.0f} s", "try it by hand")]
    except (HawkerError, OSError) as exc:
        return [Finding(name, FAILED, f"it could not be checked: {exc}")]
