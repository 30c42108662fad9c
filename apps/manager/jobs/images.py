"""What an image consists of, as its registry says now: every content by the URL that the registry
role knows it by, so that a mirror's clients are given what was placed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpx
import msgspec

from hawker.apps.manager.jobs.contents import Content
from hawker.core.digests import Digest
from hawker.core.errors import BadRequest, NotFound, OriginFailed, OriginRefused
from hawker.core.ids import canonical_url, origin_of
from hawker.core.outgoing import OriginClient, answer_body, shown
from hawker.core.upstreams import DOCKER, plain_name

# As large as containerd takes them.
MAX_MANIFEST = 4 * 1024 * 1024
MAX_MANIFESTS = 1000
MAX_NAME = 200
MAX_SIZE = 2**53
DEPTH = 3
"""Of indexes within indexes."""
PAGES = 16
DIGEST_FIELD = "docker-content-digest"

_URL = re.compile(r"^(?P<base>https?://[^/?#@]+)/v2/(?P<name>[^?#]+)/manifests/(?P<ref>[^/?#]+)$")
_NAME = re.compile(
    r"^(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-f]+))?$"
)


@dataclass(frozen=True)
class Image:
    """A repository of a registry at `base`, and a tag or digest in it."""

    base: str
    repository: str
    reference: str

    @classmethod
    def parse(cls, text: str, bases: Mapping[str, str]) -> Image:
        """From a manifest's URL, or from what people write, such as `nginx:1.27` or
        `quay.io/org/img@sha256:…`; `bases` are URLs of registries by name.

        Raises:
            BadRequest: it is neither.
        """
        if (url := _URL.match(text)) is not None:
            return cls(url["base"], url["name"], url["ref"])
        first, slash, rest = text.partition("/")
        if not slash or not (set(".:") & set(first) or first == "localhost"):
            first, rest = DOCKER, text
        registry, found = plain_name(first), _NAME.match(rest)
        if found is None or "://" in text:
            raise BadRequest(
                f"image: {text[:200]!r} is no image",
                hint="write it as nginx:1.27 or registry/name:tag, or as its manifest's URL",
            )
        name = found["name"]
        if registry == DOCKER and "/" not in name:
            name = f"library/{name}"
        base = bases.get(registry) or f"https://{registry}"
        return cls(base, name, found["digest"] or found["tag"] or "latest")

    def url(self, kind: str, reference: str) -> str:
        return f"{self.base}/v2/{self.repository}/{kind}/{reference}"


@dataclass
class _Found:
    """What an image consists of so far, each once."""

    contents: dict[str, Content] = field(default_factory=dict)
    manifests: set[str] = field(default_factory=set)

    def add(self, url: str, name: str, size: int | None) -> None:
        canonical = canonical_url(url)
        # A registry may say anything of a platform.
        name = "".join(c for c in name[:MAX_NAME] if c.isprintable())
        self.contents.setdefault(canonical, Content(canonical, name, size))


class Images:
    """Asks registries, through the egress policy and with the credentials that are configured for a
    job's tenant."""

    def __init__(self, origins: OriginClient) -> None:
        self._origins = origins

    async def contents(
        self,
        image: Image,
        platforms: Collection[str],
        headers: Mapping[str, str],
        *,
        tenant: str,
        referrers: bool,
    ) -> list[Content]:
        """Manifests first, for they are asked for first. Of an index those for `platforms`, such as
        `linux/arm64`; none means all. `referrers`: with what refers to it, signatures for example.

        Raises:
            NotFound: the registry has no such image, or none for a platform.
            OriginRefused: it does not give it for these header fields.
            OriginFailed: it cannot be asked, or what it answers is not understood.
        """
        reading = _Reading(self._origins, image, platforms, headers, tenant)
        digest = await reading.take(image.reference, "manifest", DEPTH)
        if referrers:
            for one in [digest, *(d for d in list(reading.found.manifests) if d != digest)]:
                await reading.take_referrers(one)
        return list(reading.found.contents.values())


class _Reading:
    def __init__(
        self,
        origins: OriginClient,
        image: Image,
        platforms: Collection[str],
        headers: Mapping[str, str],
        tenant: str,
    ) -> None:
        self.found = _Found()
        self._origins = origins
        self._image = image
        self._platforms = platforms
        self._headers = headers
        self._tenant = tenant

    async def take(self, reference: str, name: str, depth: int, *, chosen: bool = True) -> str:
        """A manifest and all it names; returns its digest. `chosen`: of an index the platforms that
        are wanted, else all."""
        if reference in self.found.manifests:
            return reference
        if len(self.found.manifests) >= MAX_MANIFESTS or depth < 0:
            raise OriginFailed(f"{self._image.repository} is an index without an end")
        url = self._image.url("manifests", reference)
        body, digest = await self._manifest(url, reference)
        self.found.manifests.add(digest)
        self.found.add(self._image.url("manifests", digest), name, len(body))
        document = _document(body, url)
        if "manifests" in document:
            inner = _descriptors(document, "manifests", url)
            for one in self._wanted(inner, url) if chosen else inner:
                label = " ".join(part for part in ("manifest", one.platform) if part)
                await self.take(one.digest, label, depth - 1, chosen=chosen)
            return digest
        if document.get("schemaVersion") == 1:
            raise OriginFailed(f"{shown(url)} is a manifest of the first schema")
        if isinstance(document.get("config"), dict):
            [config] = _descriptors({"config": [document["config"]]}, "config", url)
            self._blob(config, "config")
        layers = _descriptors(document, "layers", url) + _descriptors(document, "blobs", url)
        for number, layer in enumerate(layers, 1):
            self._blob(layer, f"layer {number} of {len(layers)}")
        return digest

    def _blob(self, one: _Descriptor, name: str) -> None:
        # What lies elsewhere is read from there by clients that want it.
        if not one.foreign:
            self.found.add(self._image.url("blobs", one.digest), name, one.size)

    def _wanted(self, inner: list[_Descriptor], url: str) -> list[_Descriptor]:
        if not self._platforms:
            return inner
        kept = [one for one in inner if any(_fits(one.platform, p) for p in self._platforms)]
        for platform in self._platforms:
            if not any(_fits(one.platform, platform) for one in kept):
                there = sorted({one.platform for one in inner if one.platform})
                raise NotFound(
                    f"{shown(url)} has nothing for {platform}", hint=f"it has {', '.join(there)}"
                )
        return kept

    async def take_referrers(self, digest: str) -> None:
        """What refers to a manifest: as the registry lists it, or by the tag that stands in for
        such a list."""
        url: str | None = self._image.url("referrers", digest)
        for _ in range(PAGES):
            assert url is not None
            answer = await self._ask(url)
            if answer is None:
                with_tag = self._image.url("manifests", digest.replace(":", "-"))
                if (answer := await self._ask(with_tag)) is None:
                    return
            link = answer.links.get("next", {}).get("url")
            document = _document(await answer_body(answer, str(answer.url), MAX_MANIFEST), url)
            for one in _descriptors(document, "manifests", url):
                await self.take(one.digest, "referrer", 1, chosen=False)
            url = None if link is None else urljoin(url, link)
            if url is None or origin_of(url) != origin_of(self._image.base):
                return

    async def _manifest(self, url: str, reference: str) -> tuple[bytes, str]:
        answer = await self._ask(url)
        if answer is None:
            raise NotFound(f"{shown(url)} is not at its registry")
        stated = answer.headers.get(DIGEST_FIELD, "")
        body = await answer_body(answer, str(answer.url), MAX_MANIFEST)
        digest = reference if ":" in reference else stated
        digest = digest or f"sha256:{hashlib.sha256(body).hexdigest()}"
        named = Digest.parse(digest)
        hasher = named.hasher()
        hasher.update(body)
        named.check(hasher, shown(url))
        return body, digest

    async def _ask(self, url: str) -> httpx.Response | None:
        """A successful answer, its body not read yet; None where there is no such thing."""
        fields = {"accept-encoding": "identity"}
        answer = await self._origins.ask("GET", url, self._headers, fields, tenant=self._tenant)
        if answer.status_code == 200:
            return answer
        await answer.aclose()
        if answer.status_code in (401, 403):
            raise OriginRefused(f"{shown(url)} is not given to who asks ({answer.status_code})")
        if answer.status_code == 404:
            return None
        raise OriginFailed(f"{shown(url)}: its registry answered {answer.status_code}")


@dataclass(frozen=True)
class _Descriptor:
    digest: str
    size: int
    platform: str
    foreign: bool


def _descriptors(document: Mapping[str, Any], name: str, url: str) -> list[_Descriptor]:
    listed = document.get(name) or []
    try:
        return [_descriptor(one) for one in listed]
    except (BadRequest, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise OriginFailed(f"{shown(url)}: its {name} are not understood") from exc


def _descriptor(one: Mapping[str, Any]) -> _Descriptor:
    size = int(one["size"])
    if not 0 <= size < MAX_SIZE:
        raise ValueError(f"a size of {size}")
    said = one.get("platform") or {}
    platform = "/".join(str(said[k]) for k in ("os", "architecture", "variant") if said.get(k))
    foreign = bool(one.get("urls")) and bool(
        re.search(r"foreign|nondistributable", str(one.get("mediaType", "")))
    )
    return _Descriptor(str(Digest.parse(str(one["digest"]))), size, platform, foreign)


def _fits(platform: str, wanted: str) -> bool:
    """`linux/arm64` stands for each of its variants."""
    return platform == wanted or platform.startswith(f"{wanted}/")


def _document(body: bytes, url: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise OriginFailed(f"{shown(url)} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise OriginFailed(f"{shown(url)} is no manifest")
    return document
