"""What a caller may ask this peer to read (design: `file:` rules)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hawker.core.errors import BadRequest, Forbidden


def check_origin(url: str, *, local: bool, roots: Sequence[str]) -> None:
    """Raise Forbidden for a `file:` URL that this caller may not have read.

    Callers on the unix socket (`local`) have this user's own rights; others reach only what lies
    below one of `roots`, symbolic links resolved. Raises BadRequest for what is no URL.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() != "file" or local:
            return
        path = Path(unquote(parts.path)).resolve()
    except ValueError as exc:
        raise BadRequest(f"{url!r} is not a URL: {exc}") from exc
    if any(path.is_relative_to(Path(root).resolve()) for root in roots):
        return
    raise Forbidden(
        f"{url} may not be read for this caller",
        hint="ask over the unix socket, or list its directory in sources.file.roots",
    )
