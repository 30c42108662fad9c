"""The cluster key, and the short-lived tokens that roles show each other.

Hosts that hold one key are a cluster without a manager. A token (JWT, HS256) names its subject, its
host, tenant, task and verbs; every holder of the key can mint and check it. A token that a host
mints for itself is signed with the host's own key too: holders of the cluster key cannot act in the
name of each other's hosts.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from hawker.core.contracts import Caller
from hawker.core.digests import HostKey, signed_by
from hawker.core.errors import Unauthenticated
from hawker.core.files import create_key, read_key
from hawker.core.ids import DEFAULT_TENANT, digest_of_fields, host_id

LIFETIME = 600.0
LEEWAY = 30.0
ISSUER = "hawker-cluster"
CLIENT = "client:"
"""How subjects begin that are no roles of the cluster."""
_ALGORITHMS = ["HS256"]
_MAX_REMEMBERED = 4096
_WHAT = "the cluster key"


def create_key_file(path: Path) -> None:
    """Write a new cluster key for its owner only; raises ConfigError where the file exists."""
    create_key(path, _WHAT, hint="remove it first if its cluster needs no key any more")


def read_key_file(path: Path) -> bytes:
    """The cluster key; raises ConfigError where the file is missing, readable by others or bad."""
    return read_key(path, _WHAT, hint=f"make one with `hawker cluster key {path}`")


class ClusterKey:
    """Mints and checks tokens with one shared key; remembers both while they are valid.

    With `own`, tokens for that host are proven to be the host's.
    """

    def __init__(
        self, key: bytes, clock: Callable[[], float] = time.time, *, own: HostKey | None = None
    ) -> None:
        self._key = OctKey.import_key(key)
        self._own = own
        self._clock = clock
        self._minted: dict[tuple[str, tuple[str, ...], str, str], tuple[str, float]] = {}
        self._checked: dict[str, tuple[Caller, float]] = {}

    def mint(
        self,
        host: str,
        verbs: Iterable[str],
        *,
        task: str = "",
        tenant: str = DEFAULT_TENANT,
        subject: str = "",
    ) -> str:
        """A token for these verbs; the same one again until half its life is over."""
        now = self._clock()
        wanted = (host, tuple(sorted(verbs)), task, tenant)
        known = self._minted.get(wanted)
        if known is not None and known[1] - now > LIFETIME / 2:
            return known[0]
        expires = now + LIFETIME
        claims = _claims(subject or f"host:{host}", host, wanted[1], task, tenant, expires)
        if self._own is not None and self._own.host == host:
            claims["key"] = self._own.public.hex()
            claims["proof"] = self._own.sign_bytes(_statement(claims)).hex()
        token = self._encode(claims)
        _make_room(self._minted)
        self._minted[wanted] = (token, expires)
        return token

    def mint_for_client(
        self,
        name: str,
        verbs: Iterable[str],
        *,
        tenant: str,
        lifetime: float,
        token: str = "",
    ) -> str:
        """A token that somebody keeps in a program's configuration, for `lifetime` seconds; `token`
        is the id by which it can be revoked."""
        expires = self._clock() + lifetime
        claims = _claims(f"{CLIENT}{name}", "", sorted(verbs), "", tenant, expires)
        return self._encode(claims | ({"jti": token} if token else {}))

    def _encode(self, claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "HS256"}, claims, self._key, algorithms=_ALGORITHMS)

    def check(self, token: str) -> Caller:
        """Who shows this token; raises Unauthenticated where it is forged, foreign or expired."""
        now = self._clock()
        known = self._checked.get(token)
        if known is not None and known[1] + LEEWAY > now:
            return known[0]
        try:
            claims = jwt.decode(token, self._key, algorithms=_ALGORITHMS).claims
            expires = float(claims["exp"])
            caller = Caller(
                subject=str(claims["sub"]),
                tenant=str(claims["tenant"]),
                verbs=frozenset(str(verb) for verb in claims["verbs"]),
                task=str(claims["task"]),
                host=str(claims["host"]),
                role=not str(claims["sub"]).startswith(CLIENT),
                token=str(claims.get("jti", "")),
                proven=_is_proven(claims),
            )
            issuer = claims["iss"]
        except (JoseError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as exc:
            raise Unauthenticated("the token is not one of this cluster") from exc
        # What is no number is not in the future.
        if issuer != ISSUER or not expires + LEEWAY > now:
            raise Unauthenticated("the token has expired", hint="check the clocks of both hosts")
        _make_room(self._checked)
        self._checked[token] = (caller, expires)
        return caller


def issuer_of(token: str) -> str:
    """The issuer that a JWT names, which nobody has verified; empty where it names none."""
    return claim_of(token, "iss")


def claim_of(token: str, name: str) -> str:
    """What a JWT says by this claim, which nobody has verified; empty where that is no text."""
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=="))
    except (ValueError, RecursionError):
        return ""
    found = claims.get(name) if isinstance(claims, dict) else None
    return found if isinstance(found, str) else ""


def _claims(
    subject: str, host: str, verbs: Iterable[str], task: str, tenant: str, expires: float
) -> dict[str, Any]:
    return {
        "iss": ISSUER,
        "sub": subject,
        "host": host,
        "verbs": list(verbs),
        "task": task,
        "tenant": tenant,
        "exp": int(expires),
    }


def _statement(claims: Mapping[str, Any]) -> bytes:
    """What a host signs: everything the token says."""
    fields = [claims["iss"], claims["sub"], claims["host"], claims["task"], claims["tenant"]]
    text = [str(field) for field in (*fields, claims["exp"], *claims["verbs"])]
    return digest_of_fields("hawker-token-1", *text).encode()


def _is_proven(claims: Mapping[str, Any]) -> bool:
    """The token's host signed it; raises Unauthenticated where it only pretends to."""
    if "proof" not in claims:
        return False
    key = bytes.fromhex(claims["key"])
    if host_id(key) != claims["host"] or not signed_by(
        key, bytes.fromhex(claims["proof"]), _statement(claims)
    ):
        raise Unauthenticated("the token is not signed by the host that it names")
    return True


def _make_room(remembered: dict[Any, Any]) -> None:
    if len(remembered) >= _MAX_REMEMBERED:
        remembered.clear()
