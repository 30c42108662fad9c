"""The one place where roles get their HTTP client, and where its answers become errors."""

from __future__ import annotations

import ssl

import httpx

from hawker.core.closing import ClosingTransport
from hawker.core.errors import (
    BY_CODE,
    PROBLEM_TYPE_PREFIX,
    HawkerError,
    Unavailable,
    from_problem,
)
from hawker.core.messages import decode_problem

CONNECT_TIMEOUT = 3.0
REQUEST_TIMEOUT = 10.0
MAX_CONNECTIONS = 512
# Trusts no authority; loading the usual ones costs as much time as a short command takes.
_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def control_client(
    *, uds: str | None = None, tls: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """A client for messages between roles: nothing from the environment, no redirects.

    `tls` verifies `https` roles; without it none is reached.

    HTTP/1.1: long streams on a shared HTTP/2 connection would share its read timeouts too.
    """
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=64)
    return httpx.AsyncClient(
        transport=ClosingTransport(uds=uds, limits=limits, trust_env=False, verify=tls or _NOBODY),
        timeout=httpx.Timeout(REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT),
        trust_env=False,
        follow_redirects=False,
    )


def endpoint_client(
    endpoint: str, tls: ssl.SSLContext | None = None
) -> tuple[str, httpx.AsyncClient]:
    """The base URL of a daemon at `endpoint`, the path of a unix socket or a base URL, and a client
    that reaches it there."""
    if endpoint.startswith(("http://", "https://")):
        return endpoint.rstrip("/"), control_client(tls=tls)
    return "http://localhost", control_client(uds=endpoint, tls=tls)


async def raise_for_problem(response: httpx.Response) -> None:
    """Raise what the answer's problem document says; reads the body of an unsuccessful answer.

    Raises:
        HawkerError: of the class that the problem's type names.
    """
    if response.is_success:
        return
    body = await response.aread()
    try:
        problem = decode_problem(body)
    except HawkerError:
        raise Unavailable(f"{response.request.url} answered {response.status_code}") from None
    if problem.type.removeprefix(PROBLEM_TYPE_PREFIX) not in BY_CODE:
        raise Unavailable(f"{response.request.url} answered {response.status_code}")
    raise from_problem(problem)
