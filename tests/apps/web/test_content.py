"""In whose name a mirror or a proxy asks its peer."""

from __future__ import annotations

import asyncio

import pytest

from hawker.apps.web.content import Asker, SwarmContent
from hawker.core.errors import Forbidden, Unavailable
from hawker.core.tokens import ClusterKey

KEY = ClusterKey(b"k" * 32)
URL = "http://origin.test/a"


def asked(tenant: str, token: str, key: ClusterKey | None = None) -> None:
    """Ask a peer that is not there."""

    async def main() -> None:
        content = SwarmContent("/nowhere/sock", role="proxy", key=key, token=token, tls=None)
        try:
            async with content.open("GET", URL, Asker(tenant), {}):
                pass
        finally:
            await content.close()

    asyncio.run(main())


def test_without_the_cluster_s_key_one_tenant_s_token_asks_for_that_tenant_alone() -> None:
    token = KEY.mint_for_client("proxy", ["content"], tenant="acme", lifetime=60)
    # Let through, as nobody is there.
    for tenant, good in (("acme", token), ("default", ""), ("default", "opaque")):
        with pytest.raises(Unavailable):
            asked(tenant, good)
    for tenant, wrong in (("default", token), ("Acme", token), ("acme", ""), ("acme", "opaque")):
        with pytest.raises(Forbidden, match="in the name of the tenant"):
            asked(tenant, wrong)


def test_with_the_key_it_asks_for_each() -> None:
    for tenant in ("acme", "other"):
        with pytest.raises(Unavailable):
            asked(tenant, "", KEY)
