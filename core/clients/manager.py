"""Client of a manager's API, for what hosts tell it and are told."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TypeVar

import httpx

from hawker.core.clients.http import (
    CONNECT_TIMEOUT,
    REQUEST_TIMEOUT,
    control_client,
    raise_for_problem,
)
from hawker.core.errors import BadRequest, Unavailable
from hawker.core.membership import Enrol, Enrolled, Keepalive, Kept, Renewal, Renewed
from hawker.core.messages import Decoder, encode
from hawker.core.settings import TlsSettings
from hawker.core.tls import ClientTls

T = TypeVar("T")

API = "/manager/api/v1"
# On top of what the manager may keep an answer back.
ANSWER_TIMEOUT = 10.0

_decode_enrolled: Decoder[Enrolled] = Decoder(Enrolled)
_decode_kept: Decoder[Kept] = Decoder(Kept)
_decode_renewed: Decoder[Renewed] = Decoder(Renewed)


class ManagerClient:
    """Talks to the manager of the process at `base`, an `https` one verified by the certificates in
    the file `ca`, or by the system's.

    Every method raises what the manager answers, and Unavailable where it does not.
    """

    def __init__(self, base: str, *, ca: str = "") -> None:
        self.base = base.rstrip("/")
        self._tls = ClientTls(TlsSettings(ca=ca))
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> ManagerClient:
        self._http = control_client(tls=await self._tls.towards(self.base))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def enrol(self, token: str, body: Enrol) -> Enrolled:
        """Join, with an enrolment's token."""
        answer = await self._ask("POST", "/members", token, encode(body))
        return self._decoded(answer, _decode_enrolled)

    async def keep(
        self, cluster: str, host: str, token: str, body: Keepalive
    ) -> tuple[Kept, float | None]:
        """Keep a member alive; what it is told, and by how many seconds the manager's clock is
        before ours (None where it does not tell its time)."""
        path = f"/clusters/{cluster}/members/{host}"
        timeout = body.wait + ANSWER_TIMEOUT
        answer = await self._ask("PUT", path, token, encode(body), timeout=timeout)
        return self._decoded(answer, _decode_kept), _skew(answer.headers)

    async def renew(self, member: str, token: str, csr: str) -> Renewed:
        """A new certificate for a member."""
        answer = await self._ask(
            "POST", f"/members/{member}/certificate", token, encode(Renewal(csr))
        )
        return self._decoded(answer, _decode_renewed)

    async def leave(self, member: str, token: str) -> None:
        """A member is one no more, by its own wish."""
        await self._ask("DELETE", f"/members/{member}", token, None)

    async def _ask(
        self,
        method: str,
        path: str,
        token: str,
        body: bytes | None,
        *,
        timeout: float = REQUEST_TIMEOUT,
    ) -> httpx.Response:
        assert self._http is not None
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        try:
            answer = await self._http.request(
                method,
                f"{self.base}{API}{path}",
                content=body,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
            )
            await raise_for_problem(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            what = str(exc) or type(exc).__name__
            raise Unavailable(f"the manager {self.base} does not answer: {what}") from exc
        return answer

    def _decoded(self, answer: httpx.Response, decode: Decoder[T]) -> T:
        try:
            return decode(answer.content)
        except BadRequest as exc:
            raise Unavailable(f"{self.base} does not answer like a manager: {exc.detail}") from exc


def _skew(headers: Mapping[str, str]) -> float | None:
    try:
        then = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    return then - time.time()
