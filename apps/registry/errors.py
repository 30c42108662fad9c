"""Failures as registries tell them: the error body of the OCI distribution specification."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from hawker.core.errors import (
    DigestMismatch,
    Forbidden,
    HawkerError,
    NotFound,
    OriginRefused,
    TooLarge,
    Unauthenticated,
)

UNKNOWN = {"manifests": "MANIFEST_UNKNOWN", "blobs": "BLOB_UNKNOWN"}


class RegistryError(HawkerError):
    """A refusal with one of the specification's codes.

    Args:
        code: such as `MANIFEST_UNKNOWN`.
        detail: what was wrong, in one sentence.
        status: of the answer.
        headers: more of its fields.
    """

    code, title = "bad-request", "refused"

    def __init__(
        self, oci_code: str, detail: str, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.oci_code = oci_code
        self.answer_status = status
        self.headers = dict(headers or {})


class OciError(msgspec.Struct):
    """One entry of an error body."""

    code: str
    message: str
    detail: str = ""


def as_registry_error(error: HawkerError, kind: str) -> RegistryError:
    """What a client of a registry is told of any failure; `kind` is what it asked for.

    It asks its next mirror, or the upstream, after any of these: none says 429, at which containerd
    tries here again at once.
    """
    if isinstance(error, RegistryError):
        return error
    if isinstance(error, NotFound):
        return RegistryError(UNKNOWN.get(kind, "NAME_UNKNOWN"), error.detail, 404)
    if isinstance(error, OriginRefused | Unauthenticated):
        return RegistryError("UNAUTHORIZED", error.detail, 401)
    if isinstance(error, Forbidden):
        return RegistryError("DENIED", error.detail, 403)
    if isinstance(error, TooLarge):
        return RegistryError("MANIFEST_INVALID", error.detail, 413)
    status = 502 if isinstance(error, DigestMismatch) else max(error.status, 502)
    told = RegistryError("UNKNOWN", error.detail, status)
    told.hint = error.hint
    if error.retry_after is not None:
        told.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return told


def error_response(error: RegistryError) -> Response:
    """The answer that an error stands for."""
    body = {"errors": [OciError(error.oci_code, error.detail, error.hint)]}
    return Response(
        msgspec.json.encode(body),
        error.answer_status,
        headers=error.headers,
        media_type="application/json",
    )
