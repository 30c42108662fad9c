"""`static`: credentials written in the settings, by tenant and origin."""

from __future__ import annotations

from hawker.core.contracts import Credential, Credentials
from hawker.core.settings import Settings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.credentials.origins import TABLE, Table, known_options, read_table


class StaticCredentials:
    """A table from tenant and origin to credential."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def find(self, url: str, tenant: str) -> Credential | None:
        return self._table.find(url, tenant)

    async def close(self) -> None:
        return


@hookimpl
def hawker_credentials(name: str, settings: Settings) -> Credentials:
    options = known_options(settings.plugins.options.get(name, {}), name, TABLE)
    return StaticCredentials(read_table(options, f"plugins.options.{name}."))
