"""TLS contexts of a process, made from its settings: for its listeners and for its clients.

A certificate that was renewed in its file is shown from the next connection on once `renew` was
called: whatever shows one follows that.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hawker.core.errors import ConfigError
from hawker.core.settings import TlsSettings

ALPN = ["h2", "http/1.1"]

T = TypeVar("T")
_followers: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []


def follow(thing: T, load: Callable[[T], None]) -> None:
    """Have `load(thing)` called on the event loop's thread with each renewal, as long as somebody
    else holds the thing."""
    _followers[:] = [entry for entry in _followers if entry[0]() is not None]
    _followers.append((weakref.ref(thing), load))


def renew() -> None:
    """Show what is in the certificates' files now. To be called on the event loop's thread: there
    no connection begins meanwhile.

    Raises:
        ConfigError: a file cannot be used.
    """
    for reference, load in list(_followers):
        thing = reference()
        if thing is not None:
            load(thing)


def server_context(tls: TlsSettings) -> ssl.SSLContext | None:
    """What TCP listeners speak; None for plain HTTP.

    Raises:
        ConfigError: a file cannot be used, or `mutual` lacks what it needs.
    """
    if not tls.certificate:
        if tls.mutual or tls.key:
            raise ConfigError("tls.mutual and tls.key need tls.certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    _own_certificate(context, tls)
    if tls.mutual:
        if not tls.ca:
            raise ConfigError("tls.mutual needs tls.ca", hint="name the authority of the clients")
        _trust(context, tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    follow(context, lambda known: _own_certificate(known, tls))
    return context


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """What other roles are verified by: `tls.ca`, or the system's roots; names always are. For
    connections that the event loop's thread begins.

    Under `mutual` it shows this process's certificate.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = _client_context(tls)
    if tls.certificate:
        follow(context, lambda known: _own_certificate(known, tls))
    return context


def _client_context(tls: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca:
        _trust(context, tls.ca)
    else:
        context.load_default_certs()
    if tls.certificate:
        _own_certificate(context, tls)
    return context


class ClientTls:
    """The contexts towards other roles, made when the first `https` one is met: loading the
    system's roots takes a start 30 ms.

    One is for the event loop's thread, and is told of a renewed certificate; one is for others,
    under whose hands it must not change, and is made anew.
    """

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._elsewhere: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        follow(self, ClientTls._forget)

    def check(self) -> None:
        """Raise ConfigError now where the configured files cannot be used; blocking."""
        if self._tls.ca or self._tls.certificate:
            self._make()

    def context(self) -> ssl.SSLContext:
        """See `client_context`; for a connection that begins now, in another thread than the event
        loop's."""
        with self._lock:
            if self._elsewhere is None:
                self._elsewhere = _client_context(self._tls)
            return self._elsewhere

    async def towards(self, url: str) -> ssl.SSLContext | None:
        """What connections to the role at this URL take, None where that speaks no TLS; for the
        event loop's thread."""
        if not url.startswith("https://"):
            return None
        return self._context or await asyncio.to_thread(self._make)

    def _make(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = client_context(self._tls)
            return self._context

    def _forget(self) -> None:
        self._elsewhere = None


def _trust(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"tls.ca: {file} holds no certificates: {exc.strerror or exc}",
            hint="make an authority with `hawker ca create`",
        ) from exc


def _own_certificate(context: ssl.SSLContext, tls: TlsSettings) -> None:
    key = Path(tls.key or tls.certificate)
    for setting, file in (("tls.certificate", Path(tls.certificate)), ("tls.key", key)):
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{setting}: {file} cannot be read", hint="see `hawker ca issue`")
    if key.stat().st_mode & 0o077:
        raise ConfigError(f"others may read the private key {key}", hint=f"chmod 600 {key}")
    try:
        context.load_cert_chain(tls.certificate, tls.key or None, password=lambda: b"")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"{tls.certificate} and {key} are not a certificate and its key: {exc}",
            hint="see `hawker ca issue`",
        ) from exc
