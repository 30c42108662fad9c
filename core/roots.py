"""Which `file:` URLs name what other hosts may read, too: those below `sources.file.roots`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from hawker.core.errors import BadRequest


def file_path(url: str) -> str:
    """The path that a `file:` URL names; raises BadRequest where it names none of this machine."""
    try:
        parts = urlsplit(url)
        path = unquote(parts.path)
    except ValueError as exc:
        raise BadRequest(f"{url!r} is not a URL: {exc}") from exc
    if parts.netloc not in ("", "localhost"):
        raise BadRequest(f"{url} names another host", hint="write file:///absolute/path")
    if not path.startswith("/") or "\0" in path:
        raise BadRequest(f"{url} has no absolute path", hint="write file:///absolute/path")
    return path


def below(path: str, roots: Sequence[str]) -> bool:
    """Whether a path lies below one of the directories, symbolic links resolved."""
    real = os.path.realpath(path)
    return any(os.path.commonpath((real, root)) == root for root in map(os.path.realpath, roots))
