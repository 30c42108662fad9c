"""Which upstream, repository and object a request's path names; pure.

Paths and names are those of the OCI distribution specification. containerd names the upstream in
the parameter `ns`; podman, skopeo and CRI-O in the first component of the repository, where
`host_port` stands for `host:port`; a request that names none means the default one.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import msgspec

from hawker.apps.registry.errors import RegistryError
from hawker.core.digests import Digest
from hawker.core.errors import BadRequest, ConfigError
from hawker.core.settings import RegistrySettings
from hawker.core.upstreams import DOCKER, base_urls, in_a_path, plain_name

MAX_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"^{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_PATH = re.compile(
    r"^(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]+)"
    r"|(?P<list>tags/list)|(?P<uploads>blobs/uploads/[^/]*))\Z"
)


class Target(msgspec.Struct, frozen=True):
    """What a request is about.

    `kind` is manifests, blobs, referrers, tags or uploads; `reference` a tag or digest, or the rest
    of an upload's path. `prefix` is what the client wrote before the repository to name the
    upstream, `ns` what it said in that parameter.
    """

    upstream: str
    base: str
    repository: str
    kind: str
    reference: str
    prefix: str = ""
    ns: str = ""

    @property
    def by_digest(self) -> bool:
        return ":" in self.reference

    @property
    def path(self) -> str:
        """The path at the upstream."""
        kind = {"tags": "tags/list", "uploads": "blobs/uploads/"}.get(self.kind, f"{self.kind}/")
        return f"/v2/{self.repository}/{kind}{quote(self.reference, safe=':=-_.~%')}"

    @property
    def url(self) -> str:
        """The object's URL at the upstream."""
        return self.base + self.path

    def asked(self, query: str) -> str:
        """The same with a client's query, less what was meant for the mirror."""
        parts = [part for part in query.split("&") if part and part.partition("=")[0] != "ns"]
        return self.url + (f"?{'&'.join(parts)}" if parts else "")

    def with_reference(self, kind: str, reference: str) -> Target:
        """Another object of the same repository."""
        return msgspec.structs.replace(self, kind=kind, reference=reference)


class Upstreams:
    """The registries that are mirrored.

    Raises:
        ConfigError: an upstream has no usable URL, or the default one is none of them.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._bases = base_urls(settings.upstreams)
        # What the first component of a repository may be, where it names an upstream.
        self._in_paths = {in_a_path(name): name for name in self._bases} | {
            name: name for name in self._bases
        }
        self._default = plain_name(settings.default)
        if self._default not in self._bases:
            raise ConfigError(
                f"registry.default: {settings.default!r} is none of registry.upstreams",
                hint=f"name one of {', '.join(sorted(self._bases))}",
            )

    @property
    def bases(self) -> list[str]:
        """The URL of each."""
        return list(self._bases.values())

    def locate(self, path: str, ns: str, registry: str = "") -> Target:
        """What a path below `/v2/` names; `registry` is the upstream's name or URL from a header
        field, which goes before all else.

        Raises:
            RegistryError: it names nothing, or an upstream that is not mirrored.
        """
        match = _PATH.match(path)
        if match is None:
            raise RegistryError("NAME_INVALID", f"/v2/{path} names nothing of a registry", 404)
        name, prefix = match["name"], ""
        first, slash, rest = name.partition("/")
        if registry:
            upstream = self._named(registry)
        elif ns:
            upstream = plain_name(ns)
        elif slash and plain_name(first) in self._in_paths:
            upstream, name, prefix = self._in_paths[plain_name(first)], rest, first
        else:
            upstream = self._default
        base = self._bases.get(upstream)
        if base is None:
            raise RegistryError("DENIED", f"registry.upstreams does not name {upstream!r}", 403)
        if upstream == DOCKER and "/" not in name:
            name = f"library/{name}"
        if not _NAME.match(name) or len(upstream) + 1 + len(name) > MAX_NAME:
            raise RegistryError("NAME_INVALID", f"{name!r} is no name of a repository", 400)
        kind, reference = match["kind"] or "", match["reference"] or ""
        if match["list"]:
            kind = "tags"
        elif match["uploads"] is not None:
            kind, reference = "uploads", match["uploads"].removeprefix("blobs/uploads/")
        _check_reference(kind, reference)
        return Target(upstream, base, name, kind, reference, prefix, ns)

    def _named(self, registry: str) -> str:
        """The upstream that a name or URL means."""
        if "://" not in registry:
            return plain_name(registry)
        url = registry.rstrip("/")
        for name, base in self._bases.items():
            if url.lower() == base.lower():
                return name
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.path or "@" in parts.netloc:
            raise RegistryError("NAME_INVALID", f"{registry[:200]!r} is no registry's URL", 400)
        return plain_name(parts.netloc)


def _check_reference(kind: str, reference: str) -> None:
    if kind in ("tags", "uploads") or (kind == "manifests" and _TAG.match(reference)):
        return
    try:
        Digest.parse(reference)
    except BadRequest as exc:
        tag = kind == "manifests" and ":" not in reference
        code = "MANIFEST_INVALID" if tag else "DIGEST_INVALID"
        raise RegistryError(code, f"{reference!r} is neither a tag nor a digest", 400) from exc
