"""The certificate that a host was given as it joined: renewed in time, and shown from then on."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hawker.core import tls
from hawker.core.certificates import key_pem, names_of, request_pem
from hawker.core.clients.manager import ManagerClient
from hawker.core.errors import HawkerError, StorageFailed
from hawker.core.storage.membership import AUTHORITY, HOST, Membership, save_file

log = logging.getLogger(__name__)

RENEW_AT = 2 / 3
# Clocks are set while a process runs: how long is left is looked at so often.
LOOK_EVERY = 600.0
FIRST_RETRY = 5.0
LAST_RETRY = 600.0


class Certificate:
    """`host.pem` of a membership.

    Attributes:
        end: when it ends, in seconds since 1970; 0 where it cannot be read.
    """

    def __init__(self, folder: Path, membership: Membership) -> None:
        self.end = 0.0
        self._folder = folder
        self._membership = membership

    async def renew_for_ever(self, client: ManagerClient) -> None:
        """Renew it at two thirds of its life, and again and again where that fails."""
        retry = FIRST_RETRY
        while True:
            try:
                current = await asyncio.to_thread(self._load)
                due = due_at(current)
                if time.time() < due:
                    retry = FIRST_RETRY
                    await asyncio.sleep(min(LOOK_EVERY, due - time.time()))
                    continue
                renewed = await self._renew(client, current)
                log.info("the host's certificate is renewed until %s", renewed.not_valid_after_utc)
                if time.time() < due_at(renewed):
                    continue
                log.error("a new certificate is old by this host's clock: is that wrong?")
            except HawkerError as exc:
                level = logging.WARNING if retry == FIRST_RETRY else logging.DEBUG
                log.log(level, "the host's certificate cannot be renewed: %s", exc)
            await asyncio.sleep(retry * random.uniform(0.5, 1.0))
            retry = min(LAST_RETRY, retry * 2)

    def _load(self) -> x509.Certificate:
        path = self._folder / HOST
        try:
            certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
        except (OSError, ValueError) as exc:
            raise StorageFailed(f"{path} has no certificate: {exc}") from exc
        self.end = certificate.not_valid_after_utc.timestamp()
        return certificate

    async def _renew(self, client: ManagerClient, current: x509.Certificate) -> x509.Certificate:
        me = self._membership
        key = ec.generate_private_key(ec.SECP256R1())
        answer = await client.renew(me.member, me.token, request_pem(key, names_of(current)))
        await asyncio.to_thread(save_file, self._folder / HOST, host_pem(answer.certificate, key))
        await asyncio.to_thread(save_file, self._folder / AUTHORITY, answer.ca.encode())
        tls.renew()
        return await asyncio.to_thread(self._load)


def host_pem(chain: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate chain and its key in one file, so that they are replaced together."""
    return chain.encode() + key_pem(key)


def due_at(certificate: x509.Certificate) -> float:
    """When to renew it, in seconds since 1970."""
    begin = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return begin + RENEW_AT * (end - begin)
