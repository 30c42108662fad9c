"""What a provider's rules make of what it says of somebody. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hawker.apps.manager.provider_wire import Rule
from hawker.apps.manager.wire import Held
from hawker.core.openid.tokens import Path, dig

Said = dict[str, list[str]]
"""Values by claim, of those that rules ask for."""


def said(claims: Mapping[str, Any], rules: Iterable[Rule]) -> Said:
    """What of the claims any rule asks for, and nothing else of somebody's life."""
    found: Said = {}
    for rule in rules:
        if rule.value in _values(claims, rule.claim):
            listed = found.setdefault(_key(rule.claim), [])
            if rule.value not in listed:
                listed.append(rule.value)
    return found


def held(rules: Iterable[Rule], known: Said) -> list[Held]:
    """The roles that rules give to whom this was said of."""
    return [
        Held(rule.role, rule.tenant, rule.cluster)
        for rule in rules
        if rule.value in known.get(_key(rule.claim), ())
    ]


def _key(claim: Path) -> str:
    """One text for a path, however it is written."""
    names = claim.split(".") if isinstance(claim, str) else claim
    return msgspec.json.encode(names).decode()


def _values(claims: Mapping[str, Any], claim: Path) -> set[str]:
    found = dig(claims, claim)
    name = claim.split(".")[-1] if isinstance(claim, str) else claim[-1]
    if isinstance(found, str) and name in ("scope", "scp"):
        # Words between spaces (RFC 6749 section 3.3). Other strings are one value: a group that is
        # called `not root` is not `root`.
        found = found.split()
    values = found if isinstance(found, list) else [found]
    return {text for value in values if (text := _text(value)) is not None}


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Of one that is longer Python makes no text.
        return str(value) if value.bit_length() <= 64 else None
    return value if isinstance(value, str) else None
