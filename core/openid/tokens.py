"""Signed tokens (JWT) of an OpenID Connect provider: access tokens, and the ID token of a sign-in.

Sources of the rules: RFC 7519 (claims), RFC 8725 (algorithms), RFC 9068 (JWT access tokens), OpenID
Connect Core 1.0 section 3.1.3.7 (ID tokens). Keys come from the provider alone, never from a token
(`jwk`, `jku`, `x5c`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import Key
from joserfc.jws import CompactSignature, JWSRegistry

from hawker.core.errors import Unauthenticated
from hawker.core.openid.provider import Provider
from hawker.core.tokens import LEEWAY

# Algorithm -> type of its keys: signatures with public keys only, so that no public key can be
# taken for a shared secret. Ed25519 is what RFC 9864 calls EdDSA over that curve.
ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP", "Ed25519": "OKP"}
MAX_TOKEN = 16 * 1024
MAX_SUBJECT = 255
# What only an ID token has (OpenID Connect Core 2, 3.3.2.11), and a security event (RFC 8417).
_NOT_ACCESS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})

Claims = Mapping[str, Any]
Path = str | list[str]
"""Where a claim stands: `realm_access.roles`, or a list of names where one has dots in it."""


class _Registry(JWSRegistry):
    """Knows our algorithms and no other."""

    max_header_length = 4096
    max_payload_length = MAX_TOKEN

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


_REGISTRY = _Registry(strict_check_header=False)


class TokenChecker:
    """Checks tokens of one issuer that are for one of `audiences`."""

    def __init__(
        self,
        provider: Provider,
        audiences: Sequence[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._provider = provider
        self._audiences = list(audiences)
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=int(LEEWAY),
            iss={"essential": True, "value": provider.issuer},
            aud={"essential": True, "values": self._audiences},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def access(self, token: str) -> Claims:
        """The claims of an access token.

        Raises:
            Unauthenticated: it is forged, expired, for others, or no access token.
            Unavailable: the provider is away, and its keys are not known.
        """
        header, claims = await self._signed(token)
        if not _is_access_token(header, claims):
            raise Unauthenticated(
                "the token is no access token", hint="show the access token, not the ID token"
            )
        return claims

    async def identity(self, token: str, nonce: str) -> Claims:
        """The claims of the ID token that answers a sign-in with this nonce; of several audiences
        ours must be whom it was made for. Raises as `access`."""
        header, claims = await self._signed(token)
        kind = str(header.get("typ", "JWT")).lower().removeprefix("application/")
        if kind != "jwt" or claims.get("nonce") != nonce:
            raise Unauthenticated("the ID token does not answer this sign-in")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if "azp" in claims or several:
            if claims.get("azp") not in self._audiences:
                raise Unauthenticated("the ID token was made for another client")
        return claims

    async def _signed(self, token: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
        signed = _extract(token)
        header = signed.headers()
        for key in await self._provider.named(header.get("kid")):
            if key.key_type == ALGORITHMS[header["alg"]] and _is_signed(signed, key):
                return header, self._checked(signed.payload)
        raise Unauthenticated("the token is not signed by a key of its issuer")

    def _checked(self, payload: bytes) -> dict[str, Any]:
        """The claims of a signed token; raises Unauthenticated for ones that do not let it in."""
        claims: Any = None
        try:
            claims = msgspec.json.decode(payload)
            if not isinstance(claims, dict):
                raise ValueError
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise Unauthenticated("the token has expired", hint="check the clocks") from None
        except MissingClaimError:
            missing = [name for name in ("iss", "aud", "exp", "sub") if claims.get(name) is None]
            raise Unauthenticated(f"the token has no {' and no '.join(missing)}") from None
        except InvalidClaimError as exc:
            name = exc.claim
            hint = f"it must name {' or '.join(self._audiences)}" if name == "aud" else ""
            what = "is not valid yet" if name in ("nbf", "iat") else f"is for another {name}"
            raise Unauthenticated(f"the token {what}", hint=hint) from None
        except (JoseError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise Unauthenticated("the token's claims make no sense") from None
        subject = claims["sub"]
        if len(subject) > MAX_SUBJECT or not subject.isprintable():
            raise Unauthenticated("the token's subject is no name")
        return claims


def dig(claims: Any, path: Path) -> Any:
    """What stands at a path of names, None where nothing does."""
    for name in path.split(".") if isinstance(path, str) else path:
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims


def is_path(path: Path) -> bool:
    names = path.split(".") if isinstance(path, str) else path
    return bool(names) and all(names)


def _extract(token: str) -> CompactSignature:
    """A token taken apart, its header one that may be; raises Unauthenticated."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError
        signed = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
        header = signed.headers()
        algorithm = header["alg"]
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise Unauthenticated(
                "the token's algorithm is not taken", hint=f"these are: {', '.join(ALGORITHMS)}"
            )
        _REGISTRY.check_header(header)
        # RFC 7797: the payload would not be what was decoded.
        if "b64" in header:
            raise ValueError
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise Unauthenticated("the token is no signed JWT") from None
    return signed


def _is_signed(signed: CompactSignature, key: Key) -> bool:
    """With this key, and by an algorithm that the key is for, where it says so."""
    try:
        return jws.validate_compact(signed, key, registry=_REGISTRY)
    except (JoseError, ValueError):
        return False


def _is_access_token(header: Mapping[str, Any], claims: Claims) -> bool:
    """It says so (RFC 9068), or looks like nothing else and has what an access token has.

    Many providers write `JWT` on everything that they sign; Keycloak's `typ` and Cognito's
    `token_use` are claims.
    """
    kind = str(header.get("typ", "JWT")).lower().removeprefix("application/")
    if kind == "at+jwt":
        return True
    said = [str(claims[name]).lower() for name in ("typ", "token_use") if name in claims]
    if kind != "jwt" or not _NOT_ACCESS.isdisjoint(claims):
        return False
    if any(word not in ("bearer", "access") for word in said):
        return False
    return bool(said) or "scope" in claims or "scp" in claims
