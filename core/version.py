"""Which Hawker this is."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version() -> str:
    """The installed distribution's version; `unknown` where it runs from a bare source tree."""
    try:
        return importlib.metadata.version("hawker")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
