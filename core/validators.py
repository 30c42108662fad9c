"""What tells one version of an origin's content from another (RFC 9110 section 8.8); pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

# A Last-Modified time is a strong validator only where the content cannot have changed twice within
# its one-second resolution: RFC 9110 section 8.8.2.2; the 60 s are RFC 7232's.
SETTLED_SECONDS = 60.0


def seconds_of(date: str) -> float | None:
    """Seconds since the epoch, None where it is no date."""
    try:
        parsed = parsedate_to_datetime(date)
    except (TypeError, ValueError, OverflowError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def settled(headers: Mapping[str, str]) -> int | None:
    """Seconds since 1970 of the answer's Last-Modified, where the content cannot have changed twice
    since; None elsewhere."""
    modified, now = (seconds_of(headers.get(name, "")) for name in ("last-modified", "date"))
    if modified is None or now is None or modified < 0:
        return None
    return int(modified) if now - modified >= SETTLED_SECONDS else None


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """The answer's ETag where it is a strong one (RFC 9110 section 8.8.3)."""
    etag = headers.get("etag", "")
    return etag if len(etag) >= 2 and etag.startswith('"') and etag.endswith('"') else None


def strong_validator(headers: Mapping[str, str]) -> str | None:
    """A strong validator of an answer, None where it has none."""
    etag = strong_etag(headers)
    if etag is not None:
        return etag
    return None if settled(headers) is None else headers["last-modified"]
