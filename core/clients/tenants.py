"""Asking schedulers how a tenant stands."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import httpx

from hawker.core.clients.http import control_client, raise_for_problem
from hawker.core.errors import HawkerError, Unavailable
from hawker.core.limits import TenantUsage
from hawker.core.messages import Decoder

TIMEOUT = 3.0

_decode: Decoder[list[TenantUsage]] = Decoder(list[TenantUsage])


async def tenant_usage(
    schedulers: Sequence[str], token: str, tls: ssl.SSLContext
) -> TenantUsage | None:
    """How the token's tenant stands in the cluster with these schedulers, by the one that decides;
    None where it has no quotas there.

    Raises:
        Unavailable: no scheduler answers.
    """
    error: Exception = Unavailable("the cluster has no scheduler that is active")
    answered, found = False, None
    async with control_client(tls=tls) as client:
        for url in schedulers:
            try:
                response = await client.get(
                    f"{url}/scheduler/v1/tenants",
                    headers={"authorization": f"Bearer {token}"},
                    timeout=TIMEOUT,
                )
                await raise_for_problem(response)
                usages = _decode(response.content)
            except (httpx.HTTPError, HawkerError) as exc:
                error = exc
                continue
            answered = True
            for usage in usages:
                if usage.decides:
                    return usage
                # Nobody was asked to decide lately; what was read is known to all of them.
                if found is None or usage.origin_bytes > found.origin_bytes:
                    found = usage
    if not answered:
        raise Unavailable(f"no scheduler of the cluster answers: {error or type(error).__name__}")
    return found
