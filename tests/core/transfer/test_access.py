"""What opened a URL lately is remembered for whoever showed it, and for nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hawker.core.contracts import SourceRequest
from hawker.core.errors import OriginRefused
from hawker.core.ranges import ByteRange
from hawker.core.transfer.access import AccessChecks

URL = "https://origin.test/private"


class Origin:
    """Gives to one tenant, by its configured credentials; to others whatever they show."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Any:
        self.asked.append(request.tenant)
        if request.tenant != "acme":
            raise OriginRefused("no")
        return self

    async def close(self) -> None:
        return


def test_what_opened_a_url_for_one_tenant_opens_it_for_no_other() -> None:
    """Both show the same field, and it is the first one's credentials that the origin looks at."""
    origin = Origin()
    checks = AccessChecks(lambda: 0.0)
    shown = {"x-any": "thing"}

    async def main() -> None:
        source: Any = origin
        for _ in range(2):
            await checks.check(source, SourceRequest(URL, shown, tenant="acme"))
        for tenant in ("default", "Acme"):
            with pytest.raises(OriginRefused):
                await checks.check(source, SourceRequest(URL, shown, tenant=tenant))

    asyncio.run(main())
    assert origin.asked == ["acme", "default", "Acme"]
