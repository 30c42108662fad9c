"""The plugin host: one plugin by its name, on first use; a broken one harms nobody else."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
from types import ModuleType
from typing import Any

import msgspec
import pluggy

from hawker import pluggy_specs
from hawker.core.contracts import Credential, Credentials, RoleApp, RoleContext, SourceServices
from hawker.core.egress import EgressPolicy, is_loopback
from hawker.core.errors import HawkerError, UnknownPlugin
from hawker.core.settings import Settings
from hawker.pluggy_specs import API, HOOKS, PROJECT

ROLES = "hawker.roles"
# Plugins of these ask other hosts.
ASKING = ("hawker.sources", "hawker.auth")


class PluginReport(msgspec.Struct, frozen=True):
    """One plugin as `hawker plugins` shows it; `state` is ok, failed, disabled,
    duplicate, or optional: an extra that is not installed."""

    kind: str
    name: str
    distribution: str
    version: str
    state: str
    reason: str = ""


class PluginHost:
    """Loads plugins from entry points and keeps what their hooks returned."""

    def __init__(self, settings: Settings) -> None:
        self.egress = EgressPolicy(settings.egress, loopback=is_loopback(settings.listen.host))
        self._settings = settings
        self.services = SourceServices(self.egress, _Configured(self, settings))
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(pluggy_specs)
        self._objects: dict[tuple[str, str], Any] = {}
        self._failures: dict[tuple[str, str], UnknownPlugin] = {}

    def names(self, group: str) -> list[str]:
        """Names of a group's entry points, sorted; nothing is loaded."""
        return sorted({entry.name for entry in importlib.metadata.entry_points(group=group)})

    def get(self, group: str, name: str) -> Any:
        """The object that the plugin's hook returned.

        Raises:
            UnknownPlugin: there is none of that name, or it cannot be used; says why.
        """
        known = self._objects.get((group, name))
        if known is not None:
            return known
        given: dict[str, Any] = {"settings": self._settings}
        if group in ASKING:
            given["services"] = self.services
        return self._get(group, name, given)

    def get_role(self, name: str, context: RoleContext) -> RoleApp:
        """The role of that name, made for this context; raises UnknownPlugin."""
        role: RoleApp = self._get(ROLES, name, {"context": context})
        return role

    def report(self) -> list[PluginReport]:
        """Every plugin there is, each tried by itself."""
        rows: list[PluginReport] = []
        for group in HOOKS:
            for entry in sorted(
                importlib.metadata.entry_points(group=group), key=lambda entry: entry.name
            ):
                rows.append(self._try(group, entry))
        return rows

    async def close(self) -> None:
        """Close every object that can be closed; one that fails does not keep the others."""
        failures: list[Exception] = []
        for plugin in list(self._objects.values()):
            close = getattr(plugin, "close", None)
            if inspect.iscoroutinefunction(close):
                try:
                    await close()
                except Exception as exc:
                    failures.append(exc)
        self._objects.clear()
        if failures:
            raise ExceptionGroup("plugins that could not be closed", failures)

    # ------------------------------------------------------------------ own

    def _get(self, group: str, name: str, given: dict[str, Any]) -> Any:
        key = (group, name)
        if key in self._failures:
            raise self._failures[key]
        if key not in self._objects:
            try:
                entry = self._find(group, name)
                self._objects[key] = self._make(group, entry, given)
            except UnknownPlugin as exc:
                self._failures[key] = exc
                raise
        return self._objects[key]

    def _find(self, group: str, name: str) -> importlib.metadata.EntryPoint:
        if f"{group}:{name}" in self._settings.plugins.disable:
            raise UnknownPlugin(f"plugin {group}:{name} is disabled", hint="see plugins.disable")
        found = list(importlib.metadata.entry_points(group=group, name=name))
        if not found:
            names = self.names(group)
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
            raise UnknownPlugin(f"there is no plugin {group}:{name}", hint=hint)
        distributions = sorted({_distribution(entry)[0] for entry in found})
        if len(distributions) == 1:
            return found[0]
        chosen = self._settings.plugins.choose.get(f"{group}:{name}")
        for entry in found:
            if _distribution(entry)[0] == chosen:
                return entry
        raise UnknownPlugin(
            f"plugin {group}:{name} is offered by {' and '.join(distributions)}",
            hint=f'choose one: plugins.choose = {{ "{group}:{name}" = "{distributions[0]}" }}',
        )

    def _make(self, group: str, entry: importlib.metadata.EntryPoint, given: dict[str, Any]) -> Any:
        hook = self._register(group, entry)
        first = next(iter(inspect.signature(getattr(pluggy_specs, HOOKS[group])).parameters))
        try:
            results = hook(**{first: entry.name, **given})
        except KeyboardInterrupt:
            raise
        except UnknownPlugin:
            # Of another one, which it needs.
            raise
        except HawkerError as exc:
            what = f"{type(exc).__name__}: {exc.detail}"
            raise _broken(group, entry, what, exc.hint) from exc
        except BaseException as exc:
            raise _broken(group, entry, f"its hook failed: {exc!r}") from exc
        # pluggy leaves out results that are None.
        if len(results) != 1:
            raise _broken(group, entry, f"its hook {HOOKS[group]} returned None")
        return results[0]

    def _register(self, group: str, entry: importlib.metadata.EntryPoint) -> pluggy.HookCaller:
        """Import and check a plugin; returns a caller of its hook alone."""
        module = _load(group, entry)
        api = getattr(module, "HAWKER_API", API)
        if api != API:
            raise _broken(group, entry, f"it was written for plugin API {api}, this is {API}")
        # A new object per name: pluggy refuses one object twice, and http and https are one module.
        plugin = _Named(module)
        name = f"{group}:{entry.name}"
        self._manager.unregister(name=name) if self._manager.has_plugin(name) else None
        try:
            self._manager.register(plugin, name=name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as exc:
            self._manager.unregister(name=name)
            raise _broken(group, entry, str(exc).replace("\n", " ")) from exc
        implemented = {caller.name for caller in self._manager.get_hookcallers(plugin) or ()}
        if implemented != {HOOKS[group]}:
            self._manager.unregister(name=name)
            have = ", ".join(sorted(implemented)) or "no hook"
            raise _broken(group, entry, f"it implements {have}, not {HOOKS[group]}")
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        return self._manager.subset_hook_caller(HOOKS[group], others)

    def _try(self, group: str, entry: importlib.metadata.EntryPoint) -> PluginReport:
        distribution, version = _distribution(entry)
        state, reason = "ok", ""
        try:
            if self._find(group, entry.name).value != entry.value:
                state, reason = "duplicate", "another distribution was chosen"
            elif group == ROLES:
                self._register(group, entry)
            else:
                self.get(group, entry.name)
        except UnknownPlugin as exc:
            reason = str(exc)
            state = "failed"
            if isinstance(exc, _NeedsExtra):
                state = "optional"
            elif "is disabled" in reason:
                state = "disabled"
            elif "is offered by" in reason:
                state = "duplicate"
        return PluginReport(group, entry.name, distribution, version, state, reason)


class _Configured:
    """The credentials plugins of `sources.credentials`, asked in that order."""

    def __init__(self, host: PluginHost, settings: Settings) -> None:
        self._host = host
        self._names = settings.sources.credentials

    async def find(self, url: str, tenant: str) -> Credential | None:
        for name in self._names:
            plugin: Credentials = self._host.get("hawker.credentials", name)
            found = await plugin.find(url, tenant)
            if found is not None:
                return found
        return None

    async def close(self) -> None:
        """The plugin host closes the plugins."""


class _NeedsExtra(UnknownPlugin):
    """An optional part of a distribution that was not asked for: nothing is broken."""


class _Named:
    """A plugin's module under one of its names."""

    def __init__(self, module: ModuleType) -> None:
        self.__dict__.update(vars(module))


def _load(group: str, entry: importlib.metadata.EntryPoint) -> ModuleType:
    try:
        module: ModuleType = entry.load()
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as exc:
        if not entry.extras:
            raise _broken(group, entry, f"{exc}; pip install '{exc.name}'") from exc
        extra = f"{_distribution(entry)[0]}[{','.join(entry.extras)}]"
        text = f"plugin {group}:{entry.name} needs {exc.name}: pip install '{extra}'"
        raise _NeedsExtra(text) from exc
    except BaseException as exc:
        raise _broken(group, entry, f"it cannot be imported: {exc!r}") from exc
    return module


def _broken(
    group: str, entry: importlib.metadata.EntryPoint, reason: str, hint: str = ""
) -> UnknownPlugin:
    distribution, version = _distribution(entry)
    return UnknownPlugin(
        f"plugin {group}:{entry.name} of {distribution} {version} cannot be used: {reason}",
        hint=hint,
    )


def _distribution(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    if entry.dist is None:
        return "unknown", ""
    return entry.dist.name, entry.dist.version
