"""What the mirror asks an upstream itself: what a tag means now, lists, and pushes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Mapping
from urllib.parse import quote, urlsplit

import httpx

from hawker.apps.registry.errors import UNKNOWN, RegistryError
from hawker.apps.registry.names import Target
from hawker.apps.web.content import Asker, whole
from hawker.core.errors import OriginFailed
from hawker.core.outgoing import OriginClient
from hawker.core.registries import parse_challenge, trusts

MAX_LISTING = 16 * 1024 * 1024
# Fields of a list's answer that its client needs.
LISTING = ("content-type", "link", "oci-filters-applied", "docker-distribution-api-version")
_LINK = re.compile(r"<([^>]*)>")


class Upstream:
    """Every registry that is mirrored, as the mirror itself talks to it.

    What a client showed in `Authorization` for the upstream goes there; without it the credentials
    that are configured for its tenant are used, and tokens that anybody gets.
    """

    def __init__(self, origins: OriginClient) -> None:
        self._origins = origins

    async def ask(
        self, method: str, target: Target, asker: Asker, extra: Mapping[str, str], query: str = ""
    ) -> httpx.Response:
        """A successful answer, its body not read yet.

        Raises:
            RegistryError: the upstream refuses, with its challenge; or has no such object.
            OriginFailed: anything else.
        """
        given = {"authorization": asker.shown} if asker.shown else {}
        fields = {**extra, "accept-encoding": "identity"}
        response = await self._origins.ask(
            method, target.asked(query), given, fields, tenant=asker.tenant
        )
        if response.status_code == 200:
            return response
        await response.aclose()
        raise _refusal(response, target)

    async def read(self, response: httpx.Response, limit: int) -> bytes:
        """The answer's body; raises TooLarge beyond `limit` bytes, OriginFailed for a cut one."""
        try:
            return await whole(response, limit)
        except httpx.HTTPError as exc:
            raise OriginFailed(f"{response.url.host} broke off: {exc or type(exc)}") from exc
        finally:
            await response.aclose()

    async def challenge(self, target: Target, tenant: str) -> RegistryError:
        """Why a client of this tenant that shows nothing is refused, with what the upstream wants
        to see; raises OriginFailed where it cannot be asked."""
        response = await self._origins.ask("HEAD", target.url, {}, {}, tenant=tenant)
        await response.aclose()
        return _refused(response, target)

    async def hand_on(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str],
        content: AsyncIterable[bytes] | None,
    ) -> httpx.Response:
        """The upstream's answer to a push, whatever it is, its body not read yet."""
        return await self._origins.hand_on(method, url, fields, content)


def _refusal(response: httpx.Response, target: Target) -> RegistryError | OriginFailed:
    status = response.status_code
    if status in (401, 403):
        return _refused(response, target)
    what = f"{target.upstream} answered {status} for {target.repository}"
    if status in (404, 405):
        return RegistryError(UNKNOWN.get(target.kind, "NAME_UNKNOWN"), what, status)
    return OriginFailed(what)


def _refused(response: httpx.Response, target: Target) -> RegistryError:
    denied = response.status_code == 403
    what = f"{target.upstream} does not give this of {target.repository} to who asks"
    fields = challenge_of(response, target)
    return RegistryError(
        "DENIED" if denied else "UNAUTHORIZED", what, 403 if denied else 401, fields
    )


def challenge_of(response: httpx.Response, target: Target) -> dict[str, str]:
    """The upstream's challenge for our client, unless it leads out of the upstream's own domain: a
    client would show there what it keeps for this mirror."""
    text = response.headers.get("www-authenticate", "")
    challenge = parse_challenge(text)
    if challenge is None or challenge.scheme not in ("bearer", "basic"):
        return {}
    if challenge.scheme == "bearer" and not trusts(target.base, challenge.fields.get("realm", "")):
        return {}
    # What was looked at, and no more: another challenge, or another realm, may follow it.
    quoted = {n: re.sub(r'(["\\\\])', r"\\\1", v) for n, v in challenge.fields.items()}
    parameters = ",".join(f'{name}="{value}"' for name, value in quoted.items())
    return {"www-authenticate": f"{challenge.scheme.capitalize()} {parameters}"}


def listing_fields(response: httpx.Response, target: Target) -> dict[str, str]:
    """The fields of a list's answer, its links leading through this mirror."""
    fields = {name: response.headers[name] for name in LISTING if name in response.headers}
    if "link" in fields:
        fields["link"] = _LINK.sub(lambda m: f"<{through_here(m[1], target)}>", fields["link"])
    return fields


def through_here(location: str, target: Target) -> str:
    """Where this mirror has what the upstream has at `location`; another host's stays as it is."""
    parts, base = urlsplit(location), urlsplit(target.base)
    foreign = parts.netloc and (parts.netloc != base.netloc or parts.scheme != base.scheme)
    if foreign or not parts.path.startswith("/v2/"):
        return location
    path = parts.path.removeprefix("/v2/")
    query = parts.query
    if target.ns:
        query = "&".join(part for part in (query, f"ns={quote(target.ns, safe=':')}") if part)
    prefix = f"{target.prefix}/" if target.prefix else ""
    return f"/v2/{prefix}{path}" + (f"?{query}" if query else "")
