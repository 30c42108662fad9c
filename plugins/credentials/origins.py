"""Origins as credentials name them, and tables from tenant and origin to credential."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hawker.core import ids
from hawker.core.contracts import Credential
from hawker.core.errors import ConfigError

HINT = "write https://host, https://host:port or s3://bucket"


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL in one spelling, such as `https://host:443`.

    Schemes without a host have none: `file:///a` gives `file://`.

    Raises:
        ValueError: the port is no port, or the address is none.
    """
    scheme, full, port = ids.origin_of(url)
    host = (full or "").rstrip(".")
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + ("" if port is None else f":{port}")


def exact_origin(text: str, where: str) -> str:
    """The origin that a user wrote; raises ConfigError for more, or less, than an origin.

    What was written is not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(text)
        origin = origin_of(text)
    except ValueError as exc:
        raise ConfigError(f"{where} names no origin", hint=HINT) from exc
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if not parts.scheme or not parts.hostname or extra or parts.password is not None:
        raise ConfigError(f"{where} names no origin", hint=HINT)
    return origin


def read_credential(fields: Any, where: str) -> Credential:
    """A credential from a table of its fields; no value is repeated in an error.

    Raises:
        ConfigError: a field that there is not, or one of another type.
    """
    known = Credential.__struct_fields__
    if isinstance(fields, Mapping):
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
                raise ConfigError(f"{where} has a field that no credential has", hint=hint)
    try:
        return msgspec.convert(fields, Credential)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{where}: {exc}") from None


def read_origins(table: Any, where: str) -> dict[str, Credential]:
    """Credentials by origin, from a table of tables; raises ConfigError."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is no table of origins", hint=HINT)
    found: dict[str, Credential] = {}
    for number, (text, fields) in enumerate(table.items(), 1):
        place = f"{where}, origin {number}"
        origin = exact_origin(str(text), place)
        if origin in found:
            raise ConfigError(f"{where} names {origin} twice")
        found[origin] = read_credential(fields, f"{where}, {origin}")
    return found


class Table(msgspec.Struct, frozen=True):
    """Credentials by origin, for each tenant: `origins` are the default tenant's. What is one
    tenant's is never shown for another, which would have content that it may not read."""

    tenants: Mapping[str, Mapping[str, Credential]] = {}

    def find(self, url: str, tenant: str) -> Credential | None:
        """What this tenant has for the origin of a URL."""
        return self.tenants.get(tenant, {}).get(origin_of(url))


TABLE = ("origins", "tenants")


def read_table(options: Mapping[str, Any], where: str) -> Table:
    """From `origins`, and `tenants.<name>.origins` for others than the default tenant.

    Raises:
        ConfigError: it is not of this form.
    """
    tenants = options.get("tenants", {})
    if not isinstance(tenants, Mapping):
        raise ConfigError(f"{where}tenants is no table of tenants", hint="write tenants.<name>")
    found = {ids.DEFAULT_TENANT: read_origins(options.get("origins", {}), f"{where}origins")}
    for number, (name, inner) in enumerate(tenants.items(), 1):
        place = f"{where}tenants, tenant {number}"
        if not name or name == ids.DEFAULT_TENANT:
            raise ConfigError(f"{place} is the default one", hint="its origins stand in origins")
        if not isinstance(inner, Mapping) or set(inner) - {"origins"}:
            raise ConfigError(f"{place} has something else than origins")
        found[str(name)] = read_origins(inner.get("origins", {}), f"{place}, origins")
    return Table(found)


def known_options(options: Any, name: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    """A plugin's own options; raises ConfigError for one that it does not have."""
    if not isinstance(options, Mapping):
        raise ConfigError(f"plugins.options.{name} is no table")
    for key in options:
        if key not in known:
            raise ConfigError(
                f"plugins.options.{name} has no {key!r}", hint=f"there are: {', '.join(known)}"
            )
    return options
