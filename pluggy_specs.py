"""Every hook, in the order of the dataflow: how a plugin hands its object to Hawker.

Write a module with ONE hook implementation, and an entry point whose group is the kind and whose
name is the scheme, coding, algorithm or role:

    # my_plugin.py
    from hawker.pluggy_specs import hookimpl

    @hookimpl
    def hawker_source(scheme, settings):
        return MySource(scheme)

    # pyproject.toml
    [project.entry-points."hawker.sources"]
    myscheme = "my_plugin"

The module is imported when the name is first needed, and its hook is called once; the object is
kept. Hooks are synchronous and cheap; the objects' methods are async where they may wait. An
implementation may take fewer arguments than the specification. `HAWKER_API = 1` in the module
states the version of these specifications it was written for; a module without it means 1.
"""

from __future__ import annotations

from typing import Any

import pluggy

from hawker.core.contracts import (
    Authenticator,
    Codec,
    Credentials,
    Evaluator,
    JobBroker,
    RoleApp,
    RoleContext,
    Searcher,
    Source,
    SourceServices,
    Transport,
)

PROJECT = "hawker"
API = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# Group of entry points -> the hook a plugin of that group implements.
HOOKS: dict[str, str] = {
    "hawker.roles": "hawker_role",
    "hawker.sources": "hawker_source",
    "hawker.credentials": "hawker_credentials",
    "hawker.evaluators": "hawker_evaluator",
    "hawker.searchers": "hawker_searcher",
    "hawker.compression": "hawker_codec",
    "hawker.auth": "hawker_authenticator",
    "hawker.transports": "hawker_transport",
    "hawker.jobs": "hawker_job_broker",
}


@hookspec
def hawker_role(name: str, context: RoleContext) -> RoleApp:  # type: ignore[empty-body]
    """Group `hawker.roles`: an ASGI app with a lifespan. It is mounted below `/` + its name.

    Called when a process is composed with this role. Must not start anything: the lifespan does.
    """


@hookspec
def hawker_source(  # type: ignore[empty-body]
    scheme: str, settings: Any, services: SourceServices
) -> Source:
    """Group `hawker.sources`: reads the origins whose URLs have this scheme.

    Called when the first URL of the scheme is read in this process. `settings` are the process's
    settings; a plugin's own options are `settings.plugins.options["<its name>"]`. `services` has
    the egress policy, which every connection must ask, and the configured credentials.
    """


@hookspec
def hawker_credentials(name: str, settings: Any) -> Credentials:  # type: ignore[empty-body]
    """Group `hawker.credentials`: how Hawker signs in at origins."""


@hookspec
def hawker_evaluator(name: str, settings: Any) -> Evaluator:  # type: ignore[empty-body]
    """Group `hawker.evaluators`: ranks possible parents; chosen by `scheduler.evaluator`."""


@hookspec
def hawker_searcher(name: str, settings: Any) -> Searcher:  # type: ignore[empty-body]
    """Group `hawker.searchers`: ranks the clusters that a host may join, and says why."""


@hookspec
def hawker_codec(coding: str, settings: Any) -> Codec:  # type: ignore[empty-body]
    """Group `hawker.compression`: a content coding for pieces, named by its HTTP token."""


@hookspec
def hawker_authenticator(  # type: ignore[empty-body]
    name: str, settings: Any, services: SourceServices
) -> Authenticator:
    """Group `hawker.auth`: tells who calls; chosen and ordered by `auth.plugins`.

    Called when a role is made, so that a setting that is wrong (ConfigError) is told at the start.
    `services` has the egress policy, which every connection must ask.
    """


@hookspec
def hawker_transport(name: str, settings: Any) -> Transport:  # type: ignore[empty-body]
    """Group `hawker.transports`: moves pieces between peers."""


@hookspec
def hawker_job_broker(name: str, settings: Any) -> JobBroker:  # type: ignore[empty-body]
    """Group `hawker.jobs`: carries between managers what may be begun; chosen by
    `manager.job_broker`. Called when a manager starts; must not connect."""
