"""`environment`: credentials in variables of the process.

`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` are for s3 URLs, whatever the
bucket. `HAWKER_CREDENTIAL_<NAME>` holds an origin, a space and a bearer token for that origin:
`HAWKER_CREDENTIAL_MODELS="https://models.example:8443 eyJhb..."`. The origin stands in the value,
because a variable's name can tell neither `a-b.example` from `a.b.example` nor one port from
another. All of them are the default tenant's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from hawker.core.contracts import Credential, Credentials
from hawker.core.errors import ConfigError
from hawker.core.ids import DEFAULT_TENANT
from hawker.pluggy_specs import hookimpl
from hawker.plugins.credentials.origins import exact_origin, origin_of

PREFIX = "HAWKER_CREDENTIAL_"


class EnvironmentCredentials:
    """The variables as they were when this was made.

    Raises:
        ConfigError: a variable is not what it should be; its value is not repeated.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._store = _store(environ)
        self._tokens = _tokens(environ)

    async def find(self, url: str, tenant: str) -> Credential | None:
        if tenant != DEFAULT_TENANT:
            return None
        origin = origin_of(url)
        if origin.startswith("s3:"):
            return self._store
        return self._tokens.get(origin)

    async def close(self) -> None:
        return


def _store(environ: Mapping[str, str]) -> Credential | None:
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access and not secret:
        return None
    if not access or not secret:
        raise ConfigError("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set")
    token = environ.get("AWS_SESSION_TOKEN", "")
    return Credential(access_key=access, secret_key=secret, session_token=token)


def _tokens(environ: Mapping[str, str]) -> dict[str, Credential]:
    found: dict[str, Credential] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        parts = environ[variable].split()
        if len(parts) != 2:
            raise ConfigError(
                f"{variable} is not an origin, a space and a token",
                hint='write "https://host token"',
            )
        origin = exact_origin(parts[0], variable)
        if origin in found or not origin.startswith(("http:", "https:")):
            raise ConfigError(
                f"{variable}: {origin} has a token already, or takes none",
                hint="give each http or https origin one variable",
            )
        found[origin] = Credential(token=parts[1])
    return found


@hookimpl
def hawker_credentials() -> Credentials:
    return EnvironmentCredentials(os.environ)
