"""Identity: which requests name the same content, which content is the same generation.

    task_id     hex SHA-256 over "hawker-task-1" and the length-prefixed fields tenant, canonical
                URL, tag, application, revision, variant
    generation  16 hex of SHA-256 over "hawker-generation-1", strong validator and length; random
                where the origin gives no strong validator
    host id     32 hex of SHA-256 over the host's Ed25519 public key, so that it cannot be claimed
                without the key

A length prefix is eight bytes, big-endian; without it the fields "a","b" and "ab","" would collide.
Test vectors stand in docs/identity.md.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from hawker.core.errors import BadRequest

# \Z, for $ lets a line feed follow.
TASK_ID = re.compile(r"^[0-9a-f]{64}\Z")
GENERATION_ID = re.compile(r"^[0-9a-f]{16}\Z")
HOST_ID = re.compile(r"^[0-9a-f]{32}\Z")

# Variants of tasks: content read with header fields, or through a signature in its URL; a file of
# one host alone, whose id follows.
PRIVATE = "private"
SIGNED = "signed"
OWN = "own-"

MAX_URL_LENGTH = 16 * 1024
MAX_FIELD_LENGTH = 1024
DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*$")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SUB_DELIMS = frozenset(b"!$&'()*+,;=")
_PATH = _UNRESERVED | _SUB_DELIMS | frozenset(b":@/")
_QUERY = _PATH | frozenset(b"?")

# A family of signature parameters is dropped only where its marker is in the URL: short names such
# as Azure's `st` or `sr` are ordinary parameters elsewhere, and dropping them there would give two
# different objects one identity.
SIGNATURE_FAMILIES: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "x-amz-signature",
        frozenset(
            "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders"
            " x-amz-signature x-amz-security-token x-amz-user-agent".split()
        ),
    ),
    ("awsaccesskeyid", frozenset("awsaccesskeyid expires signature x-amz-security-token".split())),
    (
        "x-goog-signature",
        frozenset(
            "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders"
            " x-goog-signature".split()
        ),
    ),
    ("googleaccessid", frozenset("googleaccessid expires signature".split())),
    ("ossaccesskeyid", frozenset("ossaccesskeyid expires signature securitytoken".split())),
    (
        "x-oss-signature",
        frozenset(
            "x-oss-signature-version x-oss-credential x-oss-date x-oss-expires x-oss-signature"
            " x-oss-security-token x-oss-additional-headers".split()
        ),
    ),
    (
        "accesskeyid",
        frozenset("accesskeyid expires signature x-obs-date x-obs-security-token".split()),
    ),
    (
        "q-signature",
        frozenset(
            "q-sign-algorithm q-ak q-sign-time q-key-time q-header-list q-url-param-list"
            " q-signature x-cos-security-token".split()
        ),
    ),
    (
        "sig",
        frozenset(
            "sv ss srt sp se st spr sig sip sr skoid sktid skt ske sks skv saoid suoid scid sdd"
            " ses".split()
        ),
    ),
    ("key-pair-id", frozenset("key-pair-id policy signature expires hash-algorithm".split())),
)


DEFAULT_TENANT = "default"
"""Whose everything is that names no tenant."""


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What names a task. On the wire and in an index `url` is always canonical."""

    url: str
    tenant: str = DEFAULT_TENANT
    tag: str = ""
    application: str = ""
    revision: str = ""
    variant: str = ""

    @property
    def task_id(self) -> str:
        return digest_of_fields(
            "hawker-task-1",
            self.tenant,
            self.url,
            self.tag,
            self.application,
            self.revision,
            self.variant,
        )

    def check(self) -> TaskSpec:
        """This spec; raises BadRequest where a field is longer than anybody's memory should pay
        for: 16 384 characters of URL, 1 024 of any other."""
        others = (self.tenant, self.tag, self.application, self.revision, self.variant)
        if len(self.url) > MAX_URL_LENGTH or max(map(len, others)) > MAX_FIELD_LENGTH:
            raise BadRequest(
                f"a name of more than {MAX_FIELD_LENGTH} characters, or a URL of more than"
                f" {MAX_URL_LENGTH}"
            )
        return self


def digest_of_fields(*fields: str) -> str:
    """Hex SHA-256 over the UTF-8 fields, each after its length in eight big-endian bytes."""
    state = hashlib.sha256()
    for field in fields:
        raw = field.encode()
        state.update(len(raw).to_bytes(8, "big"))
        state.update(raw)
    return state.hexdigest()


def generation_of(validator: str, total: int | None) -> str:
    """The generation that a strong validator and a length name."""
    length = "" if total is None else str(total)
    return digest_of_fields("hawker-generation-1", validator, length)[:16]


def random_generation() -> str:
    """A generation for content whose origin gives no strong validator."""
    return secrets.token_hex(8)


def host_id(public_key: bytes) -> str:
    """The id of the host that holds the private half of this Ed25519 key."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def canonical_url(url: str, filtered: Collection[str] = ()) -> str:
    """The URL that stands for all its spellings, in every role.

    RFC 3986 section 6.2: scheme and host in lower case, default port and fragment dropped, dot
    segments removed, percent-encoding of unreserved characters undone and the rest in upper case.
    Query parameters keep their order; those of a URL signature (`SIGNATURE_FAMILIES`), those named
    in `filtered`, and containerd's `ns` on registry paths are dropped.

    Raises:
        BadRequest: not an absolute URL, or one that carries credentials.
    """
    if len(url) > MAX_URL_LENGTH:
        raise BadRequest(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if any(ord(c) < 0x21 or ord(c) == 0x7F for c in url):
        raise BadRequest(f"the URL {url!r} contains a space or control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise BadRequest(f"the URL {url!r} cannot be parsed: {exc}") from exc
    scheme = parts.scheme.lower()
    if not scheme or not _SCHEME.match(scheme):
        raise BadRequest(f"{url!r} is not a URL", hint="start it with a scheme, such as https://")
    if parts.username is not None or parts.password is not None:
        raise BadRequest(
            "the URL carries a user name or password", hint="give credentials apart from the URL"
        )
    host = (parts.hostname or "").lower()
    if scheme in DEFAULT_PORTS and not host:
        raise BadRequest(f"{url!r} names no host")
    if host:
        host = _normal_host(host, url)
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != DEFAULT_PORTS.get(scheme):
        authority += f":{port}"
    path = _remove_dot_segments(_normal_escapes(parts.path, _PATH))
    if host and not path.startswith("/"):
        path = "/" + path
    query = _filter_query(_normal_escapes(parts.query, _QUERY), path, filtered)
    slashes = "//" if host or scheme == "file" else ""
    return f"{scheme}:{slashes}{authority}{path}" + (f"?{query}" if query else "")


def loses_credentials(url: str, filtered: Collection[str] = ()) -> bool:
    """Whether the canonical form of a URL has lost what its origin may ask for.

    That is a signature, or what `filtered` names (one of a family that is not known here, say);
    containerd's `ns` is nobody's credential.
    """
    query = _normal_escapes(urlsplit(url).query, _QUERY)
    names = [parameter.partition("=")[0] for parameter in query.split("&")] if query else []
    signing = _signing(names)
    return any(name.lower() in signing or name in filtered for name in names)


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL, the port also where it is the scheme's own.

    Raises:
        ValueError: the port is no port, or the address is none.
    """
    parts = urlsplit(url)
    port = parts.port if parts.port is not None else DEFAULT_PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _normal_host(host: str, url: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise BadRequest(f"the host of {url!r} is not a valid name") from exc


def _normal_escapes(text: str, allowed: frozenset[int]) -> str:
    """Escapes of unreserved characters undone, others in upper case, bare odd bytes escaped."""
    out: list[str] = []
    raw = text.encode()
    position = 0
    while position < len(raw):
        byte = raw[position]
        escape = raw[position : position + 3]
        if byte == 0x25 and re.fullmatch(rb"%[0-9A-Fa-f]{2}", escape):
            value = unquote_to_bytes(escape)[0]
            out.append(chr(value) if value in _UNRESERVED else f"%{value:02X}")
            position += 3
            continue
        out.append(chr(byte) if byte in allowed else f"%{byte:02X}")
        position += 1
    return "".join(out)


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4, for absolute paths."""
    if not path.startswith("/"):
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments):
        final = number == len(segments) - 1
        if segment in (".", ".."):
            if segment == ".." and kept:
                kept.pop()
            if final:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)


def _filter_query(query: str, path: str, filtered: Collection[str]) -> str:
    if not query:
        return ""
    parameters = query.split("&")
    names = [parameter.partition("=")[0] for parameter in parameters]
    drop = _signing(names)
    if path == "/v2" or path.startswith("/v2/"):
        drop.add("ns")
    kept = [
        parameter
        for parameter, name in zip(parameters, names, strict=True)
        if name.lower() not in drop and name not in filtered
    ]
    return "&".join(kept)


def _signing(names: Collection[str]) -> set[str]:
    """The parameters, in lower case, that are a signature's in a URL that has these names."""
    lowered = {name.lower() for name in names}
    signing: set[str] = set()
    for marker, family in SIGNATURE_FAMILIES:
        # Azure's marker is as short as its siblings: it counts only beside a version.
        if marker in lowered and (marker != "sig" or "sv" in lowered):
            signing |= family
    return signing
