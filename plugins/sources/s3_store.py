"""Talking to an S3 endpoint by aiobotocore: connections, signatures, and what its errors mean.

Importing this module takes a second, so `s3` does it in a thread when the first URL is read. What
botocore would find by itself (profiles, proxies, instance metadata) is switched off: the settings
and the credentials plugins decide. The upstream proxy of `egress.proxy` is told to it request by
request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

import aiohttp
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ParamValidationError,
    SSLError,
)

from hawker.core.contracts import Credential, Egress
from hawker.core.errors import (
    BadRequest,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
)
from hawker.plugins.sources.answers import retry_after
from hawker.plugins.sources.s3_connections import Pinned, http_session

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0
HEAD_TIMEOUT = 30.0
MAX_CONNECTIONS = 256
# Clients kept for credentials that are in nobody's use just now.
MAX_CLIENTS = 16
CHUNK = 256 * 1024

_CODE = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Everything a request may fail with; aiohttp's own come up from the middle of a body.
_FAILURES = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)
# A session reads neither the user's profile nor its files.
_NO_PROFILE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, None, None),
    "credentials_file": (None, None, None, None),
}


class Answer:
    """What the endpoint answered to a GET; no body where the range was beyond the end."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: Any, held: _Held | None, shown: str
    ) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._held = held
        self._shown = shown

    async def read(self) -> bytes:
        """The next bytes, none at the end; raises OriginFailed where the connection broke."""
        try:
            data: bytes = await self._body.read(CHUNK)
        except _FAILURES as exc:
            raise OriginFailed(f"{self._shown} broke off: {_reason(exc)}") from exc
        return data

    async def close(self) -> None:
        """Give the connection back; one with unread bytes is closed."""
        held, self._held = self._held, None
        if held is not None:
            self._body.close()
            held.uses -= 1


class ObjectStore:
    """One endpoint, and a client for each credential that is used with it.

    `endpoint` is a URL, or empty for Amazon's own; `authorities` are files of certificates (PEM)
    that the endpoint may be verified by besides the system's.
    """

    def __init__(
        self, egress: Egress, endpoint: str, region: str, addressing: str, authorities: list[str]
    ) -> None:
        self._endpoint = endpoint or None
        self._region = region
        self._addressing = addressing
        self._pinned = Pinned(egress, endpoint)
        self._http = http_session(authorities, self._pinned)
        self._session = AioSession(session_vars=_NO_PROFILE)
        self._clients: dict[tuple[str, str, str, bool], _Held] = {}
        self._lock = asyncio.Lock()

    async def get(
        self, credential: Credential, bucket: str, key: str, extra: Mapping[str, str]
    ) -> Answer:
        """One GET of an object; `extra` are parameters of GetObject.

        Raises:
            NotFound, OriginRefused, OriginChanged (a condition failed), OriginFailed, Forbidden.
        """
        shown = f"s3://{bucket}/{key}"
        held = await self._borrow(credential)
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                response = await held.client.get_object(Bucket=bucket, Key=key, **extra)
        except BaseException as exc:
            held.uses -= 1
            if isinstance(exc, ClientError) and _status(exc) == 416:
                return Answer(416, _headers(exc.response), None, None, shown)
            if isinstance(exc, _FAILURES):
                _fail(exc, shown)
            raise
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        return Answer(status, _headers(response), response["Body"], held, shown)

    async def list(
        self, credential: Credential, bucket: str, prefix: str
    ) -> AsyncIterator[tuple[str, int | None]]:
        """(key, bytes) of the objects directly below a prefix, (prefix, None) of what is deeper."""
        shown = f"s3://{bucket}/{prefix}"
        held = await self._borrow(credential)
        try:
            paginator = held.client.get_paginator("list_objects_v2")
            pages = aiter(paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"))
            while True:
                async with asyncio.timeout(HEAD_TIMEOUT):
                    page = await anext(pages, None)
                if page is None:
                    return
                for deeper in page.get("CommonPrefixes", []):
                    yield deeper["Prefix"], None
                for item in page.get("Contents", []):
                    yield item["Key"], item["Size"]
        except _FAILURES as exc:
            _fail(exc, shown)
        finally:
            held.uses -= 1

    async def close(self) -> None:
        """Close every connection, also those of readings that are open."""
        clients, self._clients = list(self._clients.values()), {}
        for held in clients:
            await held.close()

    async def _borrow(self, credential: Credential) -> _Held:
        """The client for this credential; `uses` must be counted down when it is done with."""
        key = (
            credential.access_key,
            credential.secret_key,
            credential.session_token,
            credential.anonymous,
        )
        async with self._lock:
            held = self._clients.get(key)
            if held is None:
                held = self._clients[key] = await asyncio.to_thread(self._make, credential)
            held.uses += 1
            idle = [key for key, other in self._clients.items() if not other.uses]
            for unused in idle[: max(0, len(self._clients) - MAX_CLIENTS)]:
                await self._clients.pop(unused).close()
        return held

    def _make(self, credential: Credential) -> _Held:
        # It reads and parses for 200 ms and waits for nothing; connections are made later, on the
        # loop that asks for them.
        return asyncio.run(self._create(credential))

    async def _create(self, credential: Credential) -> _Held:
        config = AioConfig(
            signature_version=UNSIGNED if credential.anonymous else "s3v4",
            s3={"addressing_style": self._addressing},
            # Anything but Amazon's own endpoint may refuse the checksums that are newer than it.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=MAX_CONNECTIONS,
            # Whoever reads decides when to try again.
            retries={"total_max_attempts": 1, "mode": "standard"},
            proxies={},
            defaults_mode="legacy",
            ignore_configured_endpoint_urls=True,
            http_session_cls=self._http,
            connector_args={
                "resolver": self._pinned,
                "socket_factory": self._pinned.socket,
                "use_dns_cache": False,
                "keepalive_timeout": 15.0,
            },
        )
        given = {
            "aws_access_key_id": credential.access_key,
            "aws_secret_access_key": credential.secret_key,
            "aws_session_token": credential.session_token or None,
        }
        context = self._session.create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint,
            verify=True,
            config=config,
            **({} if credential.anonymous else given),
        )
        client = await context.__aenter__()
        client.meta.events.register("before-call.s3.GetObject", _ask_for_checksum)
        client.meta.events.register("before-call.s3.HeadBucket", _ask_for_no_region)
        return _Held(client, context)


class _Held:
    """A client and how many use it now."""

    def __init__(self, client: Any, context: Any) -> None:
        self.client = client
        self.uses = 0
        self._context = context

    async def close(self) -> None:
        await self._context.__aexit__(None, None, None)


def _ask_for_no_region(**_: Any) -> None:
    """botocore asks for the bucket where a redirect names no region, and for that one again where
    it is redirected, too: hundreds of requests, then a RecursionError. The redirect is the answer.
    """
    answer = {"Error": {"Code": "Redirect"}, "ResponseMetadata": {"HTTPHeaders": {}}}
    raise ClientError(answer, "HeadBucket")


def _ask_for_checksum(params: dict[str, Any], **_: Any) -> None:
    # Not by the parameter ChecksumMode: with it botocore hashes the body too, on the event loop.
    params["headers"]["x-amz-checksum-mode"] = "ENABLED"


def _status(exc: Any) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _headers(response: Mapping[str, Any]) -> dict[str, str]:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _fail(exc: BaseException, shown: str) -> NoReturn:
    """Raise what a failure of a request means."""
    own = _own(exc)
    if own is not None:
        raise own from None
    if isinstance(exc, ClientError):
        raise _refusal(exc, shown) from None
    if isinstance(exc, ParamValidationError):
        raise BadRequest(f"{shown} cannot be asked for: {exc}") from None
    if isinstance(exc, TimeoutError):
        raise OriginFailed(f"{shown}: the endpoint did not answer in {HEAD_TIMEOUT:g} s") from exc
    hint = "add its authority with egress.ca" if isinstance(exc, SSLError) else ""
    raise OriginFailed(f"{shown} cannot be read: {_reason(exc)}", hint=hint) from exc


def _own(exc: BaseException) -> HawkerError | None:
    """The error that the egress policy raised below aiohttp, where that is the cause."""
    cause: Any = exc
    while cause is not None:
        if isinstance(cause, HawkerError):
            return cause
        inner = getattr(cause, "kwargs", {}).get("error")
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return None


def _refusal(exc: Any, shown: str) -> HawkerError:
    """What an error document of the endpoint means; its text is not repeated, but for the code."""
    status, headers = _status(exc), _headers(exc.response)
    said = str(exc.response.get("Error", {}).get("Code", ""))
    code = said if _CODE.fullmatch(said) else ""
    what = f"{shown}: the endpoint answered {status} {code}".rstrip()
    if status in (404, 410) or code in ("NoSuchKey", "NoSuchBucket"):
        return NotFound(what)
    if status in (401, 403):
        return OriginRefused(what, hint="check the access key, its rights and this clock")
    if status == 412:
        return OriginChanged(f"{shown} is not what it was any more")
    region = headers.get("x-amz-bucket-region", "")
    hint = ""
    if status in (301, 307, 400) and _CODE.fullmatch(region):
        hint = f'the bucket is in another region: set plugins.options.s3.region to "{region}"'
    return OriginFailed(what, hint=hint, retry_after=retry_after(headers))


def _reason(exc: BaseException) -> str:
    inner = getattr(exc, "kwargs", {}).get("error") or exc
    return str(inner) or type(inner).__name__
