"""Manifests: what a tag means is asked anew each time, what a digest names never changes."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Any

import msgspec

from hawker.apps.registry.errors import RegistryError
from hawker.apps.registry.names import Target
from hawker.apps.registry.upstream import Upstream
from hawker.apps.web.content import Asker, SwarmContent
from hawker.apps.web.dragonfly import Wishes
from hawker.core.digests import Digest
from hawker.core.errors import HawkerError
from hawker.core.registries import MANIFEST_TYPES

# containerd takes no more.
MAX_MANIFEST = 4 * 1024 * 1024
MAX_REMEMBERED = 4096
# How long it is known that an image's blobs can be had.
PROVEN = 600.0
OCI_INDEX, OCI_MANIFEST = MANIFEST_TYPES[:2]
DIGEST_FIELD = "docker-content-digest"


class Manifest(msgspec.Struct, frozen=True):
    """A manifest as it is answered; `body` is None where only its head was asked for."""

    digest: str
    media_type: str
    length: int
    body: bytes | None = None


class Manifests:
    """Gives manifests; their bytes come through the swarm, by digest."""

    def __init__(self, upstream: Upstream, content: SwarmContent) -> None:
        self._upstream = upstream
        self._content = content
        # What upstreams called their manifests, as each tenant was told: nobody learns by it, or by
        # what need not be proven again, what another one pulled.
        self._types: OrderedDict[str, str] = OrderedDict()
        self._proven: OrderedDict[str, float] = OrderedDict()

    async def get(
        self, target: Target, asker: Asker, accept: str, wishes: Wishes, *, head: bool
    ) -> Manifest:
        """The manifest that a tag or digest names, for whoever asks.

        Raises:
            HawkerError: it cannot be had, or its blobs cannot.
        """
        if not target.by_digest:
            found = await self._resolve(target, asker, accept, wishes, head=head)
            if head or found.body is not None:
                return found
            target = target.with_reference("manifests", found.digest)
        body = await self._content.read(target.url, asker, MAX_MANIFEST, wishes)
        _check(target.reference, body, target.url)
        await self._prove(target, asker, body, wishes)
        known = self._types.get(_named(target, target.reference, asker), "")
        media_type = said_type(body) or known or media_type_of(body)
        return Manifest(target.reference, media_type, len(body), body)

    async def _resolve(
        self, target: Target, asker: Asker, accept: str, wishes: Wishes, *, head: bool
    ) -> Manifest:
        """What a tag names now. Upstreams that do not answer a HEAD in full are asked by a GET."""
        fields = {"accept": accept} if accept else {}
        try:
            response = await self._upstream.ask("HEAD", target, asker, fields)
            await response.aclose()
        except RegistryError as exc:
            if exc.answer_status != 405:
                raise
        else:
            digest = response.headers.get(DIGEST_FIELD, "")
            media_type = response.headers.get("content-type", "")
            length = response.headers.get("content-length", "")
            if digest and media_type and length.isdecimal():
                # What was asked for next is in its URL.
                Digest.parse(digest)
                self._remember(_named(target, digest, asker), media_type)
                return Manifest(digest, media_type, int(length))
        response = await self._upstream.ask("GET", target, asker, fields)
        body = await self._upstream.read(response, MAX_MANIFEST)
        digest = response.headers.get(DIGEST_FIELD) or f"sha256:{hashlib.sha256(body).hexdigest()}"
        _check(digest, body, target.url)
        media_type = response.headers.get("content-type") or media_type_of(body)
        self._remember(_named(target, digest, asker), media_type)
        if not head:
            await self._prove(target, asker, body, wishes)
        return Manifest(digest, media_type, len(body), body)

    async def _prove(self, target: Target, asker: Asker, body: bytes, wishes: Wishes) -> None:
        """See that an image's blobs can be had here, by the smallest: clients that got a manifest
        from a mirror take its blobs from there, or fail."""
        config = _config_of(body)
        key = _named(target, config, asker)
        now = time.monotonic()
        if not config or self._proven.get(key, 0.0) > now:
            return
        blob = target.with_reference("blobs", config)
        try:
            # Its client asks for it next; a HEAD would have the upstream asked twice.
            async with self._content.open("GET", blob.url, asker, {}, wishes=wishes) as response:
                await anext(response.aiter_raw(), b"")
        except HawkerError as exc:
            raise RegistryError(
                "UNKNOWN", f"the blobs of {target.repository} cannot be had: {exc.detail}", 503
            ) from exc
        self._proven[key] = now + PROVEN
        _shorten(self._proven)

    def _remember(self, name: str, media_type: str) -> None:
        self._types[name] = media_type
        _shorten(self._types)


def _named(target: Target, digest: str, asker: Asker) -> str:
    return f"{asker.tenant} {target.base}/{target.repository}@{digest}"


def said_type(body: bytes) -> str:
    """What a manifest says that it is; empty where it says nothing."""
    said = _document(body).get("mediaType")
    return said if isinstance(said, str) and said.isascii() and said.isprintable() else ""


def media_type_of(body: bytes) -> str:
    """What kind of manifest this is, as far as that can be told from it."""
    if said := said_type(body):
        return said
    document = _document(body)
    if document.get("schemaVersion") == 1:
        return "application/vnd.docker.distribution.manifest.v1+prettyjws"
    return OCI_INDEX if "manifests" in document else OCI_MANIFEST


def _config_of(body: bytes) -> str:
    """The digest of an image's configuration; empty for what has none."""
    config = _document(body).get("config")
    digest = config.get("digest") if isinstance(config, dict) else None
    try:
        return str(Digest.parse(digest)) if isinstance(digest, str) else ""
    except HawkerError:
        return ""


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _check(digest: str, body: bytes, url: str) -> None:
    """Raise DigestMismatch where this is not what the digest names."""
    named = Digest.parse(digest)
    hasher = named.hasher()
    hasher.update(body)
    named.check(hasher, url)


def _shorten(known: OrderedDict[str, Any]) -> None:
    while len(known) > MAX_REMEMBERED:
        known.popitem(last=False)
