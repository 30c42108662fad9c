"""The registries that are mirrored: their names, their URLs, and how a path names one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from hawker.core.errors import ConfigError

DOCKER = "docker.io"
_ALIASES = {"index.docker.io": DOCKER, "registry-1.docker.io": DOCKER}


def plain_name(name: str) -> str:
    """A registry's name in its usual form."""
    lowered = name.strip().lower()
    return _ALIASES.get(lowered, lowered)


def in_a_path(name: str) -> str:
    """A registry's name as the first component of a repository, where no colon can stand: its port
    follows an underscore, which no host's name has."""
    return name.replace(":", "_")


def base_urls(upstreams: Mapping[str, str]) -> dict[str, str]:
    """The URL of each registry by its name, from the setting `registry.upstreams`.

    Raises:
        ConfigError: one has no usable URL.
    """
    bases: dict[str, str] = {}
    for name, given in upstreams.items():
        url = given or f"https://{name}"
        parts = urlsplit(url)
        path = parts.path.strip("/")
        if parts.scheme not in ("http", "https") or not parts.hostname or path or parts.query:
            raise ConfigError(
                f"registry.upstreams: {name!r} has the URL {given!r}",
                hint="write it as https://host or https://host:port",
            )
        bases[plain_name(name)] = f"{parts.scheme}://{parts.netloc}"
    return bases
