"""What an upstream proxy is told, and what it means when it refuses.

Origins of `https`, and tunnels, are asked for by CONNECT, so that every answer behind it is the
origin's own. Those of `http` are asked for in absolute form (RFC 9112 section 3.2.2), as proxies
commonly let CONNECT lead to port 443 alone; of these answers some are the proxy's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import quote

from hawker.core.contracts import UpstreamProxy
from hawker.core.errors import OriginFailed

# A gateway's own (RFC 9110 section 15): nobody but a proxy says these. 407 is a proxy's alone.
_GATEWAY = frozenset({407, 502, 504})


def authorization(proxy: UpstreamProxy) -> str:
    """The `Proxy-Authorization` field, empty where nothing is to be shown (RFC 7617)."""
    if not proxy.username and not proxy.password:
        return ""
    pair = f"{proxy.username}:{proxy.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def with_user(proxy: UpstreamProxy) -> str:
    """Its URL with user and password in it, for libraries that take nothing else."""
    if not authorization(proxy):
        return proxy.url
    user = f"{quote(proxy.username, safe='')}:{quote(proxy.password, safe='')}"
    return f"{proxy.scheme}://{user}@{proxy.name}"


def refused(proxy: UpstreamProxy, what: str, answer: str) -> OriginFailed:
    """The error for an origin that the upstream proxy does not lead to; `answer` is what it said,
    a status first."""
    hint = "see egress.proxy"
    if answer.startswith("407"):
        hint = "it wants another user and password in egress.proxy"
    return OriginFailed(
        f"{what} cannot be read: the upstream proxy {proxy.name} answered {answer}", hint=hint
    )


def unreachable(proxy: UpstreamProxy, reason: object) -> OriginFailed:
    """The error for an upstream proxy that does not answer."""
    why = reason or "no answer"
    return OriginFailed(
        f"the upstream proxy {proxy.name} cannot be reached: {why}", hint="see egress.proxy"
    )


def own_answer(
    proxy: UpstreamProxy, what: str, status: int, fields: Mapping[str, str]
) -> OriginFailed | None:
    """The error for an answer to a request in absolute form that is the upstream proxy's own; None
    where nothing says so.

    `fields` by lower-case name: RFC 9209 says it in `Proxy-Status`, Squid in a field of its own.
    """
    said = fields.get("x-squid-error", "")
    if "error=" in fields.get("proxy-status", ""):
        said = said or fields["proxy-status"]
    if status not in _GATEWAY and not said:
        return None
    return refused(proxy, what, f"{status} {said[:200]}".rstrip())
