"""The `oidc` authenticator: access tokens (JWT) of an OpenID Connect or OAuth 2.0 provider.

    [plugins.options.oidc]
    issuer = "https://login.example.com/realms/main"
    audience = "hawker"
    roles_claim = "realm_access.roles"
    tenant_claim = "tenant"

    [plugins.options.oidc.verbs]
    hawker-reader = ["content"]

Sources of the rules: RFC 7519 (claims), RFC 8725 (algorithms), RFC 9068 (JWT access tokens), OpenID
Connect Discovery 1.0. Keys come from the provider alone, never from a token (`jwk`, `jku`, `x5c`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import Key
from joserfc.jws import CompactSignature, JWSRegistry

from hawker.core.contracts import Authenticator, Caller, SourceServices
from hawker.core.errors import ConfigError, Unauthenticated, Unavailable
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.settings import Settings
from hawker.core.tokens import LEEWAY, issuer_of
from hawker.pluggy_specs import hookimpl
from hawker.plugins.auth.provider import ProviderKeys, is_trustworthy

# Algorithm -> type of its keys: signatures with public keys only, so that no public key can be
# taken for a shared secret. Ed25519 is what RFC 9864 calls EdDSA over that curve.
ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP", "Ed25519": "OKP"}
MAX_TOKEN = 16 * 1024
MAX_SUBJECT = 255
_TENANT = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
# What only an ID token has (OpenID Connect Core 2, 3.3.2.11), and a security event (RFC 8417).
_NOT_ACCESS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})

Path = str | list[str]


class OidcOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.options.oidc]`.

    A claim is named by its path, `realm_access.roles`, or by a list of names where a name has dots
    in it. `verbs` says what each role, or scope, may do.
    """

    issuer: str
    audience: str | list[str]
    verbs: dict[str, list[str]]
    roles_claim: Path = "scope"
    tenant_claim: Path = ""
    ca: str = ""


class _Registry(JWSRegistry):
    """Knows our algorithms and no other."""

    max_header_length = 4096
    max_payload_length = MAX_TOKEN

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


_REGISTRY = _Registry(strict_check_header=False)


class OidcAuthenticator:
    """Checks tokens of one issuer, and leaves those of others to other authenticators."""

    def __init__(
        self, options: OidcOptions, keys: ProviderKeys, now: Callable[[], float] = time.time
    ) -> None:
        self._options = options
        self._keys = keys
        audiences = options.audience
        self._audiences = [audiences] if isinstance(audiences, str) else audiences
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=int(LEEWAY),
            iss={"essential": True, "value": options.issuer},
            aud={"essential": True, "values": self._audiences},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def authenticate(self, headers: Mapping[str, str]) -> Caller | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or token.count(".") != 2:
            return None
        if issuer_of(token) not in ("", self._options.issuer):
            return None
        signed = _extract(token)
        header = signed.headers()
        for key in await self._keys.named(header.get("kid")):
            if key.key_type == ALGORITHMS[header["alg"]] and _is_signed(signed, key):
                return self._caller(header, self._checked(signed.payload))
        raise Unauthenticated("the token is not signed by a key of its issuer")

    async def close(self) -> None:
        await self._keys.close()

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
        return claims

    def _caller(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> Caller:
        if not _is_access_token(header, claims):
            raise Unauthenticated(
                "the token is no access token", hint="show the access token, not the ID token"
            )
        subject = claims["sub"]
        if len(subject) > MAX_SUBJECT or not subject.isprintable():
            raise Unauthenticated("the token's subject is no name")
        roles = _words(_dig(claims, self._options.roles_claim))
        verbs = {verb for role in roles for verb in self._options.verbs.get(role, ())}
        return Caller(f"oidc:{subject}", self._tenant(claims), frozenset(verbs))

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        if not self._options.tenant_claim:
            return "default"
        found = _dig(claims, self._options.tenant_claim)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, str) or not _TENANT.match(found):
            raise Unauthenticated(
                "the token names no tenant",
                hint="see plugins.options.oidc.tenant_claim: one name, of up to 64 letters, digits "
                "and . _ @ -",
            )
        return found


class NotSetUp:
    """Installed, and nobody's choice: it is only asked where `auth.plugins` names it."""

    async def authenticate(self, headers: Mapping[str, str]) -> Caller | None:
        raise Unavailable("oidc is not set up", hint="set plugins.options.oidc.issuer")

    async def close(self) -> None:
        return


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


def _is_access_token(header: Mapping[str, Any], claims: Mapping[str, Any]) -> bool:
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


def _dig(claims: Any, path: Path) -> Any:
    """What stands at a path of names, None where nothing does."""
    for name in path.split(".") if isinstance(path, str) else path:
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims


def _words(value: Any) -> list[str]:
    """Roles from a list, or from words between spaces (RFC 6749 section 3.3)."""
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _read_options(table: Any, where: str) -> OidcOptions:
    """The options; raises ConfigError for any that is missing, unknown or wrong."""
    try:
        options = msgspec.convert(table, OidcOptions)
    except msgspec.ValidationError as exc:
        known = ", ".join(OidcOptions.__struct_fields__)
        raise ConfigError(f"{where}: {exc}", hint=f"there are: {known}") from None
    # OpenID Connect Discovery 1.0 section 3: without a query and a fragment.
    if not is_trustworthy(options.issuer) or not {"?", "#"}.isdisjoint(options.issuer):
        raise ConfigError(
            f"{where}.issuer is no issuer",
            hint="write https://host/path as the provider does; http only for this machine",
        )
    audiences = [options.audience] if isinstance(options.audience, str) else options.audience
    if not audiences or not all(audiences):
        raise ConfigError(
            f"{where}.audience is empty", hint="name what the provider writes in `aud` for Hawker"
        )
    if not any(options.verbs.values()):
        raise ConfigError(
            f"{where}.verbs lets nobody do anything", hint='write verbs = { "role" = ["content"] }'
        )
    for setting in ("roles_claim", "tenant_claim"):
        path = getattr(options, setting)
        names = path.split(".") if isinstance(path, str) else path
        if (path or setting == "roles_claim") and not all(names):
            raise ConfigError(f"{where}.{setting} is no path of claims", hint="write a.b.c")
    if not options.roles_claim:
        raise ConfigError(f"{where}.roles_claim is empty")
    return options


@hookimpl
def hawker_authenticator(name: str, settings: Settings, services: SourceServices) -> Authenticator:
    where = f"plugins.options.{name}"
    table = settings.plugins.options.get(name)
    if table is None:
        if name in settings.auth.plugins:
            raise ConfigError(
                f"auth.plugins names {name}, and it is not set up", hint=f"set {where}.issuer"
            )
        return NotSetUp()
    options = _read_options(table, where)
    if options.ca:
        context = origin_tls(options.ca, f"{where}.ca")
    else:
        context = origin_tls(settings.egress.ca)
    return OidcAuthenticator(options, ProviderKeys(options.issuer, OriginClient(services, context)))
