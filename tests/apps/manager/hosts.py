"""Hosts that join a manager and keep themselves alive, over a real socket."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hawker.core.certificates import common_name
from hawker.core.digests import HostKey
from hawker.core.membership import prove
from tests.apps.manager.running import Manager, created

SOON = 1.5
"""Seconds within which what was changed is told, with the time that a busy machine takes."""


def enrol(client: httpx.Client, kind: str, cluster: str = "", **more: Any) -> dict[str, Any]:
    """A new enrolment."""
    body = {"kind": kind, **({"cluster": cluster} if cluster else {}), **more}
    return created(client.post("/enrolments", json=body))


def request(*names: str, key: Any = None) -> str:
    """A certificate signing request for these host names and addresses."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name("?"))
    if names:
        general = [_general(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Host:
    """One host; `told` is the last answer to a keepalive."""

    def __init__(self, manager: Manager, kind: str, **said: Any) -> None:
        self.key = HostKey.generate()
        self.kind = kind
        self.said = {"hostname": "host", "addresses": ["127.0.0.1"], **said}
        self.client = manager.client()
        self.member: dict[str, Any] = {}
        self.told: dict[str, Any] = {"revision": ""}

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def enrol(self, token: str, names: Sequence[str] = ("127.0.0.1",), **more: Any) -> Any:
        """Ask to join; `more` takes the place of what is right."""
        csr = more.pop("csr", request(*names))
        body = {
            "host": self.key.host,
            "key": self.key.public.hex(),
            "proof": prove(self.key, token, csr),
            "csr": csr,
            **self.said,
            **more,
        }
        return self.client.post("/members", json=body, headers=_bearer(token))

    def join(self, token: str, names: Sequence[str] = ("127.0.0.1",)) -> dict[str, Any]:
        self.member = created(self.enrol(token, names))
        return self.member

    @property
    def headers(self) -> dict[str, str]:
        return _bearer(self.member["token"])

    def ask(self, wait: float = 0.0, **more: Any) -> httpx.Response:
        """A keepalive, with what it was told last as `known`."""
        body = {
            "kind": self.kind, "url": f"http://127.0.0.1:{4000 + self.key.public[0]}", **self.said,
            "known": self.told["revision"], "wait": wait, **more,
        }  # fmt: skip
        url = f"/clusters/{self.member['cluster']}/members/{self.key.host}"
        return self.client.put(url, json=body, headers=self.headers)

    def keep(self, wait: float = 0.0, **more: Any) -> dict[str, Any]:
        answer = self.ask(wait, **more)
        assert answer.status_code == 200, answer.text
        self.told = answer.json()
        return self.told


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each returns when all are made at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))


class Waiting:
    """A keepalive that waits, in a thread of its own."""

    def __init__(self, host: Host, wait: float = 15.0) -> None:
        self.began = time.monotonic()
        self.seconds = 0.0
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._ask, args=(host, wait))
        self._thread.start()
        time.sleep(0.3)

    def _ask(self, host: Host, wait: float) -> None:
        self.answer = host.ask(wait)
        self.seconds = time.monotonic() - self.began

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> httpx.Response:
        self._thread.join(30)
        assert self.answer is not None
        return self.answer


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
