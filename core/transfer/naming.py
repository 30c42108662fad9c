"""Which task a request names, and how its origin is asked for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hawker.core.contracts import SourceRequest
from hawker.core.digests import ALGORITHMS, Digest
from hawker.core.errors import Forbidden
from hawker.core.ids import (
    DEFAULT_TENANT,
    OWN,
    PRIVATE,
    SIGNED,
    TaskSpec,
    canonical_url,
    loses_credentials,
)
from hawker.core.messages import DownloadRequest
from hawker.core.roots import below, file_path


class Named(msgspec.Struct, frozen=True):
    """A task, and what its origin is asked with by this request."""

    spec: TaskSpec
    origin: SourceRequest


def name(
    request: DownloadRequest, *, host: str = "", roots: Sequence[str] = (), local: bool
) -> Named:
    """What a request names at `host`.

    `local`: this machine's own user asks. A file of this machine that is not below `roots` is that
    user's alone; what other hosts call by the same URL is another file.

    Raises:
        BadRequest: the URL names nothing.
        Forbidden: it names a file that this caller may not have read.
    """
    canonical = canonical_url(request.url, request.filtered_query_params)
    spec = TaskSpec(
        url=canonical,
        tenant=request.tenant or DEFAULT_TENANT,
        tag=request.tag,
        application=request.application,
        revision=request.revision,
    ).check()
    signed = loses_credentials(request.url, request.filtered_query_params)
    # What the canonical form lost may be what the origin asks for: the scheduler never learns it.
    url = request.url.partition("#")[0] if signed else canonical
    if canonical.startswith("file:") and not below(file_path(canonical), roots):
        if not local:
            raise Forbidden(
                f"{request.url} may not be read for this caller",
                hint="ask over the unix socket, or list its directory in sources.file.roots",
            )
        spec = msgspec.structs.replace(spec, variant=OWN + host)
        return Named(spec, SourceRequest(url, local=True, tenant=spec.tenant))
    if request.headers:
        spec = msgspec.structs.replace(spec, variant=PRIVATE)
    elif signed:
        spec = msgspec.structs.replace(spec, variant=SIGNED)
    return Named(spec, SourceRequest(url, request.headers, tenant=spec.tenant))


def named_digest(url: str) -> Digest | None:
    """The digest that a URL such as `sha256:…` names, None for other URLs."""
    return Digest.parse(url) if url.partition(":")[0] in ALGORITHMS else None


def digest_of(request: DownloadRequest) -> Digest | None:
    """The digest the content must have: as given, or as the URL names it."""
    return Digest.parse(request.digest) if request.digest else named_digest(request.url)
