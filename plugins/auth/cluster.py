"""The `cluster` authenticator: bearer tokens made with the cluster key."""

from __future__ import annotations

from collections.abc import Mapping

from hawker.core.contracts import Authenticator, Caller
from hawker.core.settings import Settings
from hawker.core.tokens import ISSUER, ClusterKey, issuer_of, read_key_file
from hawker.pluggy_specs import hookimpl


class ClusterAuthenticator:
    """Knows every holder of the key; the key is read when the first token is shown."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.cluster_key_file
        self._key: ClusterKey | None = None

    async def authenticate(self, headers: Mapping[str, str]) -> Caller | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        # A JWT is three parts; others, and those of other issuers, are another authenticator's.
        if scheme.lower() != "bearer" or token.count(".") != 2:
            return None
        if issuer_of(token) not in ("", ISSUER):
            return None
        if self._key is None:
            self._key = ClusterKey(read_key_file(self._file))
        return self._key.check(token)

    async def close(self) -> None:
        return


@hookimpl
def hawker_authenticator(name: str, settings: Settings) -> Authenticator:
    return ClusterAuthenticator(settings)
