"""Credentials are for the origin they belong to, and for no log, error or answer."""

from __future__ import annotations

import re

MASK = "***"

# Query parameters that are a credential, or that make one together with others. Names of the signed
# URLs of S3, GCS, OSS, OBS, COS and Azure, and what other services commonly use.
_PARAMETERS = (
    r"(?:x-(?:amz|goog|oss|obs|cos)-(?:signature|credential|security-token)"
    r"|q-signature|q-ak|signature|sig|securitytoken"
    r"|(?:aws|google|oss)?access(?:key)?id|access_?key|secret_?key|api_?key|key"
    r"|(?:access_|auth_|id_|refresh_)?token|password|passwd|secret)"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"(?i)([?&;]{_PARAMETERS}=)[^&\s\"'<>)]+"), rf"\1{MASK}"),
    # Userinfo (RFC 3986 section 3.2.1), up to the last @ of the authority.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s\"'?#]+@"), rf"\1{MASK}@"),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|cookie|set-cookie|x-amz-security-token)"
            r"(\"?'?\s*[:=,]\s*\"?'?)[^\r\n\"']+"
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{6,}"), rf"\1 {MASK}"),
)


def mask(text: str) -> str:
    """The text without the credentials that URLs and header fields in it carry."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
