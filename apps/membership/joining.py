"""A host joins a cluster that a manager looks after, or leaves it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from hawker.apps.membership.certificate import host_pem
from hawker.core.certificates import request_pem
from hawker.core.clients.manager import ManagerClient
from hawker.core.digests import HostKey
from hawker.core.egress import is_loopback
from hawker.core.errors import (
    BadRequest,
    ConfigError,
    HawkerError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hawker.core.membership import Enrol, Enrolled, prove
from hawker.core.storage.directory import DirectoryLock
from hawker.core.storage.identity import load_host_key
from hawker.core.storage.membership import (
    AUTHORITY,
    CLUSTER_KEY,
    HOST,
    MANAGER,
    Draft,
    Membership,
    drafting,
    load_membership,
    remove_membership,
)
from hawker.core.version import version


class Wish(msgspec.Struct, frozen=True):
    """Whom to join, with an enrolment's token, and as what. No `addresses`: the one that the
    manager is called from. `plain`: without a certificate. `ca`: what the manager's own certificate
    is verified by (PEM), empty for the system's authorities."""

    manager: str
    token: str
    hostname: str
    addresses: list[str]
    idc: str = ""
    location: str = ""
    plain: bool = False
    ca: bytes = b""


async def join(data: Path, wish: Wish) -> tuple[Membership, str]:
    """Make this data directory's host a member; what it keeps of that, and why of this cluster.

    All that can be looked at before is, for a token is good for one host.

    Raises:
        ConfigError: it has joined already, or cannot be called what is wished.
        StorageFailed, QuotaExceeded: the directory is in use, or cannot be written.
        HawkerError: what the manager answers.
    """
    folder = data / "membership"
    key = await asyncio.to_thread(load_host_key, data)
    with _unused(data):
        known = await asyncio.to_thread(load_membership, folder)
        if known is not None:
            raise ConfigError(
                f"{data} has joined the cluster {known.cluster_name} of {known.manager} already",
                hint="`hawker leave` first, or choose another --data",
            )
        addresses = wish.addresses or [await asyncio.to_thread(_address_towards, wish.manager)]
        wish = msgspec.structs.replace(wish, addresses=addresses)
        tls_key = ec.generate_private_key(ec.SECP256R1())
        # Under `plain` the certificate is for nobody, and thrown away.
        csr = request_pem(tls_key, [] if wish.plain else _names(wish))
        body = _body(key, wish, csr)
        with drafting(folder) as draft:
            ca = draft.put(MANAGER, wish.ca) if wish.ca else None
            async with ManagerClient(wish.manager, ca=str(ca or "")) as client:
                answer = await client.enrol(wish.token, body)
                try:
                    await asyncio.to_thread(_keep, draft, wish, answer, tls_key)
                except HawkerError:
                    # Nobody will ever use it.
                    with contextlib.suppress(HawkerError):
                        await client.leave(answer.id, answer.token)
                    raise
        membership = _membership(wish, answer)
    return membership, answer.reason


async def leave(data: Path) -> tuple[Membership, bool]:
    """This data directory's host is a member no more; what it was, and whether the manager knew it
    still.

    Raises:
        ConfigError: it has not joined.
        Unavailable: the manager is away.
        StorageFailed: the directory is in use, or cannot be written.
    """
    folder = data / "membership"
    membership = await asyncio.to_thread(load_membership, folder)
    if membership is None:
        raise ConfigError(f"{data} has not joined a cluster", hint="see `hawker join --help`")
    with _unused(data), _unused(folder):
        ca = folder / MANAGER
        knew = True
        async with ManagerClient(membership.manager, ca=str(ca) if ca.exists() else "") as client:
            try:
                await client.leave(membership.member, membership.token)
            except (NotFound, Unauthenticated):
                knew = False
            except Unavailable as exc:
                raise Unavailable(
                    exc.detail,
                    hint=f"try again later; or remove {folder}, and the member at the manager",
                ) from exc
    await asyncio.to_thread(remove_membership, folder)
    return membership, knew


@contextlib.contextmanager
def _unused(directory: Path) -> Iterator[None]:
    lock = DirectoryLock(directory)
    try:
        yield
    finally:
        lock.release()


def _address_towards(manager: str) -> str:
    """This host's address as the manager sees it, unless something between them changes it."""
    parts = urlsplit(manager)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as exc:
        raise Unavailable(f"{host} cannot be resolved: {exc.strerror}") from exc
    failure: OSError | None = None
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                # UDP: nothing is sent.
                probe.connect(where)
            except OSError as exc:
                failure = exc
                continue
            address: str = probe.getsockname()[0]
            return address
    raise Unavailable(f"there is no way to {host}: {failure}", hint="name --address")


def _names(wish: Wish) -> list[str]:
    """What the certificate is for. On loopback a host's name means nothing."""
    if all(is_loopback(address) for address in wish.addresses):
        return wish.addresses
    return [wish.hostname, *wish.addresses]


def _body(key: HostKey, wish: Wish, csr: str) -> Enrol:
    body = Enrol(
        host=key.host,
        key=key.public.hex(),
        proof=prove(key, wish.token, csr),
        csr=csr,
        hostname=wish.hostname,
        addresses=wish.addresses,
        idc=wish.idc,
        location=wish.location,
        version=version(),
    )
    try:
        # What the manager would refuse, before it is asked.
        return msgspec.convert(msgspec.to_builtins(body), Enrol)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"so no host can join: {exc}") from exc


def _membership(wish: Wish, answer: Enrolled) -> Membership:
    return Membership(
        manager=wish.manager,
        member=answer.id,
        host=answer.host,
        cluster=answer.cluster,
        cluster_name=answer.cluster_name,
        kind=answer.kind,
        token=answer.token,
        plain=wish.plain,
        hostname=wish.hostname,
        idc=wish.idc,
        location=wish.location,
        addresses=wish.addresses,
    )


def _keep(draft: Draft, wish: Wish, answer: Enrolled, key: ec.EllipticCurvePrivateKey) -> None:
    files = {CLUSTER_KEY: (answer.cluster_key.strip() + "\n").encode()}
    if not wish.plain:
        files[HOST] = host_pem(answer.certificate, key)
        files[AUTHORITY] = answer.ca.encode()
    draft.complete(_membership(wish, answer), files)
