"""The manager at work: an open database, the API on it, and the upkeep of what grows old.

Everything that needs the database's library is imported from here on; the role imports this in a
thread once it is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hawker.apps.manager import changes, docs, models
from hawker.apps.manager.accounts import Accounts
from hawker.apps.manager.attempts import Attempts
from hawker.apps.manager.client_tokens import ClientTokens, forget_expired
from hawker.apps.manager.clusters import Applications, Clusters, Tenants
from hawker.apps.manager.database import Database
from hawker.apps.manager.enrolments import Enrolments
from hawker.apps.manager.identity import Identity
from hawker.apps.manager.jobs.engine import Engine
from hawker.apps.manager.jobs.harbor import Harbor
from hawker.apps.manager.jobs.images import Images
from hawker.apps.manager.jobs.members import Members as Hosts
from hawker.apps.manager.jobs.planning import Planner
from hawker.apps.manager.jobs.queue import Queue
from hawker.apps.manager.jobs.resource import Jobs
from hawker.apps.manager.keepalives import Keepalives
from hawker.apps.manager.members import Members
from hawker.apps.manager.openapi import document
from hawker.apps.manager.operation import ANSWER_SECONDS, PREFIX, Layer, Operation
from hawker.apps.manager.own import SETUP, Audits, Own, Tokens
from hawker.apps.manager.people import Bindings, Roles, Users
from hawker.apps.manager.providers import Providers
from hawker.apps.manager.roster import Roster
from hawker.apps.manager.search import Search
from hawker.apps.manager.secret import KeyedHash, Passwords
from hawker.apps.manager.series import Recording
from hawker.apps.manager.signing_in import SigningIn
from hawker.apps.manager.usage import TenantUsages
from hawker.apps.manager.window import Window
from hawker.apps.web.application import Application
from hawker.apps.web.requests import json_response
from hawker.core.contracts import JobBroker, Plugins, Searcher
from hawker.core.errors import ConfigError, Unavailable
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.settings import Settings
from hawker.core.upstreams import base_urls

SETUP_SECONDS = 3600.0
CLEAN_SECONDS = 600.0
REPEAT_SECONDS = 86400.0
SILENT_MEMBER_SECONDS = 1800.0
ENDED_ENROLMENT_SECONDS = 86400.0
# What a host shows that was removed is told from what nobody knows for so long.
GONE_SECONDS = 90 * 86400.0


class Service:
    """Made by `start`; `app` answers what is below the role's mount."""

    def __init__(
        self,
        database: Database,
        hashed: KeyedHash,
        accounts: Accounts,
        roster: Roster,
        searcher: Searcher,
        broker: JobBroker | None,
        origins: OriginClient,
        settings: Settings,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._identity = identity = Identity(hashed, accounts)
        self.roster = roster
        passwords = Passwords()
        self._attempts = Attempts(hashed)
        self.own = Own(identity, passwords, self._attempts)
        search = Search(roster, searcher)
        seal = hashed.seal
        self._origins = origins
        planner = Planner(Images(origins), base_urls(settings.registry.upstreams), seal)
        queue = None
        if broker is not None:
            # Of the managers that have the same key: those of one database.
            queue = Queue(broker, settings.manager.job_broker, hashed.fingerprint[:16])
        hosts = Hosts(seal)
        limit = settings.manager.job_parts
        self.engine = Engine(database, planner, hosts, seal, limit, queue)
        per_minute = settings.manager.jobs_per_minute
        self._jobs = Jobs(database, self.engine, planner, seal, per_minute)
        self.window = Window(hosts)
        self._series = Recording(database, hosts)
        self.signing_in = SigningIn(identity, accounts, self._attempts)
        collections = (
            Clusters(roster), Members(roster, seal), Enrolments(roster, search, hashed),
            Tenants(roster, TenantUsages(roster, hosts)), Applications(roster),
            Users(passwords), Roles(), Bindings(), Providers(accounts, seal), Tokens(identity),
            ClientTokens(roster, seal), Audits(), self._jobs,
        )  # fmt: skip
        self.operations: list[Operation] = [
            *self.own.operations(),
            *self.signing_in.operations(),
            *search.operations(),
            *self.window.operations(),
            *(operation for one in collections for operation in one.operations()),
        ]
        self._document = document(self.operations)
        layer = Layer(database, identity, roster)
        routes = [layer.route(operation) for operation in self.operations]
        routes += Harbor(layer, self._jobs).routes()
        described = [Route(f"{PREFIX}/openapi.json", self._describe), *docs.routes(PREFIX)]
        self.app = Application(routes=[*described, *routes])
        self.app.router.redirect_slashes = False
        self.keepalives = Keepalives(roster)

    @classmethod
    async def start(cls, settings: Settings, plugins: Plugins) -> Service:
        """Open the database, with the key that belongs to it.

        Raises:
            ConfigError, StorageFailed, Unavailable: as `Database.open`; ConfigError where the key
                is missing, or is another database's.
            UnknownPlugin: the searcher or the job broker cannot be used.
        """
        searcher: Searcher = plugins.get("hawker.searchers", settings.manager.searcher)
        name = settings.manager.job_broker
        broker: JobBroker | None = plugins.get("hawker.jobs", name) if name else None
        database = Database(settings.manager.database, settings.data)
        await database.open()
        try:
            context = await asyncio.to_thread(origin_tls, settings.egress.ca)
            with database.active():
                async with database.failures():
                    hashed = await _key(settings, database)
                    roster = Roster(database, hashed)
                    await roster.load()
                    origins = OriginClient(plugins.services, context)
                    accounts = Accounts(plugins, context)
                    return cls(
                        database, hashed, accounts, roster, searcher, broker, origins, settings
                    )
        except BaseException:
            await database.close()
            raise

    async def invite(self, base: str, *, as_json: bool) -> None:
        """Where there is no user yet, print a link below `base`, the role's URL, good for an hour,
        that makes the first one; one that was printed before is good no more."""
        token = secrets.token_urlsafe(32)
        expires = time.time() + SETUP_SECONDS
        with self._database.active():
            async with self._database.failures(), asyncio.timeout(ANSWER_SECONDS):
                if await models.User.exists():
                    return
                digest = self._identity.hashed.digest(SETUP, token)
                fresh = {"value": digest, "expires": expires}
                await models.Fact.update_or_create(defaults=fresh, name=SETUP)
        link = f"{base}{PREFIX}/setup?token={token}"
        # To whoever started this, and not to the log, which others may read.
        if as_json:
            print(json.dumps({"setup": link, "expires": expires}), file=sys.stderr, flush=True)
        else:
            text = "hawker: the manager has no user yet; within an hour, POST name and password to"
            print(f"{text}\n{link}", file=sys.stderr, flush=True)

    async def clean(self) -> None:
        """Remove what has ended."""
        now = time.time()
        with self._database.active():
            async with self._database.failures(), asyncio.timeout(CLEAN_SECONDS):
                await models.Session.filter(expires__lte=now).delete()
                await self._attempts.clean()
                await models.Repeat.filter(created__lte=now - REPEAT_SECONDS).delete()
                ended = models.Enrolment.filter(expires__lte=now - ENDED_ENROLMENT_SECONDS)
                await ended.delete()
                await changes.forget(now - SILENT_MEMBER_SECONDS)
                await models.Gone.filter(at__lte=now - GONE_SECONDS).delete()
                await self._jobs.forget(now)
                await forget_expired()
                await self._series.clean(now)

    async def work(self) -> None:
        """Follow the database and do what there is to do; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.roster.run())
            group.create_task(self.engine.run())
            group.create_task(self._series.run())

    def drain(self) -> None:
        """Nobody waits for news any more."""
        self.roster.close()
        self._jobs.close()
        self.window.close()

    async def stop(self) -> None:
        """Write down what is in memory alone, and close the database."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._database.close)
            stack.push_async_callback(self._accounts.close)
            stack.push_async_callback(self._origins.close)
            with contextlib.suppress(Unavailable):
                await self.roster.flush()
                await self.engine.release()

    async def _describe(self, request: Request) -> Response:
        where = request.scope.get("root_path", "") + PREFIX
        return json_response({**self._document, "servers": [{"url": where}]})


async def _key(settings: Settings, database: Database) -> KeyedHash:
    """The key of tokens and sessions; made with the database, where there is none."""
    path = settings.manager_key_file
    fact = await models.Fact.get_or_none(name=models.KEY)
    if fact is None and not path.exists():
        KeyedHash.create(path)
    hashed = KeyedHash.read(path)
    if fact is None:
        made = {"value": hashed.fingerprint}
        fact, _ = await models.Fact.get_or_create(defaults=made, name=models.KEY)
    if fact.value != hashed.fingerprint:
        raise ConfigError(
            f"the tokens in the manager's database {database.name} are not hashed with {path}",
            hint="copy the key of another manager of this database, or set manager.key_file",
        )
    return hashed
