"""`static`: credentials written in the settings, by origin."""

from __future__ import annotations

from collections.abc import Mapping

from hawker.core.contracts import Credential, Credentials
from hawker.core.settings import Settings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.credentials.origins import known_options, origin_of, read_origins


class StaticCredentials:
    """A table from origin to credential."""

    def __init__(self, origins: Mapping[str, Credential]) -> None:
        self._origins = origins

    async def find(self, url: str) -> Credential | None:
        return self._origins.get(origin_of(url))

    async def close(self) -> None:
        return


@hookimpl
def hawker_credentials(name: str, settings: Settings) -> Credentials:
    options = known_options(settings.plugins.options.get(name, {}), name, ("origins",))
    where = f"plugins.options.{name}.origins"
    return StaticCredentials(read_origins(options.get("origins", {}), where))
