"""Who answers: this process's own port, schedulers, an origin; and whether clocks agree."""

from __future__ import annotations

import email.utils
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from hawker.apps.cli.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding, failure
from hawker.core.clients.http import control_client
from hawker.core.contracts import Source, SourceRequest
from hawker.core.errors import HawkerError
from hawker.core.ids import canonical_url
from hawker.core.ranges import ByteRange
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.tls import ClientTls
from hawker.core.tokens import LEEWAY, ClusterKey, read_key_file
from hawker.core.version import version

PATIENCE = 4.0
SKEW = 2.0
WILDCARDS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


async def port(settings: Settings) -> Finding:
    """The port this process listens on, or would."""
    name, wanted = "port", settings.listen
    if wanted.port == 0:
        return Finding(name, OK, "any that is free (listen.port is 0)")
    host = WILDCARDS.get(wanted.host, wanted.host)
    where = f"{wanted.host}:{wanted.port}"
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if settings.tls.certificate else "http"
    try:
        answer = await _ask(settings, f"{scheme}://{shown}:{wanted.port}")
    except httpx.ConnectError as exc:
        if "CERTIFICATE" in str(exc).upper():
            return Finding(name, FAILED, f"{where}: {exc}", "see the line on TLS")
        return _bind(name, wanted.host, wanted.port)
    except httpx.HTTPError:
        answer = None
    if answer is None:
        told = f"{where} is taken by something that is not Hawker"
        return Finding(name, FAILED, told, "stop it, or choose another listen.port")
    other = answer["version"]
    told = f"Hawker {other} answers at {where}"
    if other != version():
        return Finding(name, WARNING, f"{told}, this is {version()}", "restart it")
    return Finding(name, OK, told)


def _bind(name: str, host: str, number: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, number))
        except OSError as exc:
            told = f"{host}:{number} cannot be listened on: {exc.strerror}"
            return Finding(name, FAILED, told, "choose another listen.host or listen.port")
    return Finding(name, OK, f"{host}:{number} is free")


async def advertised(settings: Settings) -> Finding:
    """The URL that others are told to reach this process by, as far as that shows from here."""
    name, base = "advertised URL", settings.peer.advertise.rstrip("/")
    runs = await _runs(settings)
    try:
        answer = await _ask(settings, base)
    except httpx.HTTPError as exc:
        if not runs:
            return Finding(name, SKIPPED, f"nobody answers at {base}: no daemon runs here yet")
        told = f"{base} cannot be reached: {exc or type(exc).__name__}"
        hint = "see peer.advertise, names and forwarded ports, and listen.host"
        return Finding(name, FAILED, told, hint)
    if answer is None:
        told = f"something that is not Hawker answers at {base}"
        return Finding(name, FAILED, told, "see peer.advertise")
    if not runs or await _is_another(settings, base):
        told = f"the Hawker that answers at {base} is another host's"
        return Finding(name, FAILED, told, "give each host a peer.advertise of its own")
    return Finding(name, OK, f"Hawker {answer['version']} answers at {base}")


async def _runs(settings: Settings) -> bool:
    """A daemon of this data directory listens on its unix socket."""
    async with control_client(uds=str(settings.unix_socket)) as client:
        try:
            await client.get("http://localhost/healthy", timeout=PATIENCE)
        except httpx.HTTPError:
            return False
    return True


async def _is_another(settings: Settings, base: str) -> bool:
    """The peer at this URL is not the one on our socket; who does not say is taken for it.

    No token is shown: it would be worth something to whoever has our address.
    """
    ids = []
    for uds, url in ((None, base), (str(settings.unix_socket), "http://localhost")):
        tls = await ClientTls(settings.tls).towards(url)
        async with control_client(uds=uds, tls=tls) as client:
            try:
                answer = await client.get(f"{url}/peer/v1/host", timeout=PATIENCE)
                ids.append(str(answer.json()["host"]))
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                return False
    return ids[0] != ids[1]


async def scheduler(settings: Settings, url: str) -> list[Finding]:
    """One that this host is to talk to: reachable, of our cluster, our version, our time."""
    name = f"scheduler {url}"
    began = time.time()
    try:
        answer = await _ask(settings, url)
    except httpx.HTTPError as exc:
        told = f"it cannot be reached: {exc or type(exc).__name__}"
        return [Finding(name, FAILED, told, "is it up, and does a firewall let us through?")]
    if answer is None:
        told = "something that is not Hawker answers"
        return [Finding(name, FAILED, told, "see peer.schedulers")]
    middle = (began + time.time()) / 2
    findings = [await _known_there(settings, name, url)]
    if answer["version"] != version():
        told = f"Hawker {answer['version']} there, {version()} here"
        findings.append(Finding(f"version of {url}", WARNING, told, "upgrade the older one"))
    findings.append(_clock(url, answer["date"], middle))
    return findings


async def _known_there(settings: Settings, name: str, url: str) -> Finding:
    """Whether that scheduler has our key."""
    try:
        token = ClusterKey(read_key_file(settings.cluster_key_file)).mint("", ["hosts"])
    except HawkerError:
        return Finding(name, WARNING, "it answers", "there is no cluster key to try it with")
    tls = await ClientTls(settings.tls).towards(url)
    async with control_client(tls=tls) as client:
        try:
            answer = await client.get(
                f"{url}/scheduler/v1/hosts",
                headers={"authorization": f"Bearer {token}"},
                timeout=PATIENCE,
            )
        except httpx.HTTPError as exc:
            return Finding(name, FAILED, f"it broke off: {exc}", "look into its log")
    if answer.status_code == 401:
        hint = "give both the same cluster.key, and the right time"
        return Finding(name, FAILED, "it does not take tokens made with our cluster key", hint)
    if answer.status_code == 404:
        return Finding(name, FAILED, "that process has no scheduler", "see peer.schedulers")
    if answer.is_error:
        return Finding(name, FAILED, f"it answers {answer.status_code}", "look into its log")
    return Finding(name, OK, f"it has our cluster key and knows {len(answer.json())} hosts")


def _clock(url: str, date: float | None, now: float) -> Finding:
    name = f"clock of {url}"
    if date is None:
        return Finding(name, SKIPPED, "it tells no time")
    # The field counts whole seconds, cut off.
    skew = 0.0 if date <= now < date + 1 else min(abs(now - date), abs(now - date - 1))
    told = f"{skew:.0f} s apart; tokens break at {LEEWAY:.0f} s"
    if skew > LEEWAY:
        return Finding(name, FAILED, told, "synchronise the clocks (NTP)")
    if skew > SKEW:
        return Finding(name, WARNING, told, "synchronise the clocks (NTP)")
    return Finding(name, OK, told)


async def origin(settings: Settings, url: str) -> Finding:
    """One byte of an origin, as a reader would fetch it: policy, address, TLS, answer."""
    name = "origin"
    plugins = PluginHost(settings)
    try:
        clean = canonical_url(url)
        source: Source = plugins.get("hawker.sources", urlsplit(clean).scheme)
        reading = await source.open(
            SourceRequest(url.partition("#")[0], local=True), ByteRange(0, 1)
        )
        try:
            total = "an unknown number of" if reading.total is None else f"{reading.total}"
            validator = "a strong validator" if reading.validator else "no strong validator"
            parts = "parts can be read" if reading.ranges else "no parts can be read"
            told = f"{clean}: {total} bytes, {validator}, {parts}"
            sound = reading.ranges and reading.validator and reading.total is not None
        finally:
            await reading.close()
    except HawkerError as exc:
        return failure(name, exc)
    finally:
        await plugins.close()
    if not sound:
        hint = "it is read in one go, and again from the start where that breaks off"
        return Finding(name, WARNING, told, hint)
    return Finding(name, OK, told)


async def _ask(settings: Settings, base: str) -> dict[str, Any] | None:
    """What a Hawker process says of itself, with its `date` (seconds since the epoch); None for
    something else; raises httpx.HTTPError where nobody answers."""
    tls = await ClientTls(settings.tls).towards(base)
    async with control_client(tls=tls) as client:
        answer = await client.get(f"{base}/readyz", timeout=PATIENCE)
    try:
        said = answer.json()
        told = {"version": str(said["version"])}
    except (ValueError, KeyError, TypeError):
        return None
    date = email.utils.parsedate_tz(answer.headers.get("date", ""))
    return told | {"date": None if date is None else email.utils.mktime_tz(date)}
