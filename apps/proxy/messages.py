"""What a proxy does to the head of a message (RFC 9110 section 7.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hawker.apps.web.dragonfly import PREFIX

Field = tuple[bytes, bytes]

# About one connection, or between the client and this proxy.
HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip


def end_to_end(fields: Iterable[Field], *, upgrade: bytes = b"") -> list[Field]:
    """The fields that go on: not those about this connection alone, be it by their name or because
    `Connection` lists them. With `upgrade` that protocol is still asked for, or agreed on."""
    given = list(fields)
    listed = {
        token.strip().lower()
        for name, value in given
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    # RFC 9110 section 7.6.1: what everybody needs cannot be listed away.
    dropped = HOP_BY_HOP | (listed - {b"host", b"content-length", b"date", b"authorization"})
    kept = [(name, value) for name, value in given if name.lower() not in dropped]
    if upgrade:
        kept += [(b"connection", b"upgrade"), (b"upgrade", upgrade)]
    return kept


def is_ours(name: bytes) -> bool:
    """Whether a request's field is for this proxy alone, by what it is about."""
    return name.lower().startswith(PREFIX.encode())


def upgrade_in(fields: Iterable[Field]) -> bytes:
    """The protocol that a message asks for, or agrees on; empty where it does not."""
    known = {name.lower(): value for name, value in fields}
    tokens = {token.strip().lower() for token in known.get(b"connection", b"").split(b",")}
    return known.get(b"upgrade", b"") if b"upgrade" in tokens else b""


def as_mapping(fields: Iterable[Field]) -> dict[str, str]:
    """Fields by lower-case name, those of one name joined (RFC 9110 section 5.3)."""
    found: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def with_via(fields: list[Field], version: bytes, name: str) -> list[Field]:
    """With this proxy among those that the message came through."""
    return [*fields, (b"via", version + b" " + name.encode())]


def came_through(fields: Mapping[str, str], name: str) -> bool:
    """The message came through this very proxy before."""
    hops = fields.get("via", "").split(",")
    return any(hop.split()[1:2] == [name] for hop in hops)
