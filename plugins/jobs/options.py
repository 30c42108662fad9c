"""Options of brokers, read alike."""

from __future__ import annotations

import ssl
from typing import Any, TypeVar

import msgspec

from hawker.core.errors import ConfigError
from hawker.core.settings import Settings

CALL_SECONDS = 5.0
"""What a broker may take for an answer."""
REDELIVERY = 15.0
MOST = 10_000
"""Messages that a queue keeps; of more the oldest go, which the database knows."""

ENCODED = "what is special in a URL, such as / in a password, is written as %2F"

Options = TypeVar("Options", bound=msgspec.Struct)


def options_of(settings: Settings, name: str, kind: type[Options]) -> Options:
    """`[plugins.options.<name>]`; raises ConfigError for what is unknown or wrong."""
    try:
        return msgspec.convert(settings.plugins.options.get(name, {}), kind)
    except msgspec.ValidationError as exc:
        raise ConfigError(
            f"plugins.options.{name}: {exc}", hint=f"there are: {', '.join(kind.__struct_fields__)}"
        ) from None


def trusting(ca: str, where: str) -> ssl.SSLContext:
    """What verifies a broker: the system's certificates, or those of a file (PEM); raises
    ConfigError where it has none."""
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as exc:
        told: Any = getattr(exc, "strerror", None) or exc
        raise ConfigError(f"{where}: {ca} has no certificates: {told}") from exc
