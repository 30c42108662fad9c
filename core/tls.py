"""TLS contexts of a process, made from its settings: for its listeners and for its clients."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from pathlib import Path

from hawker.core.errors import ConfigError
from hawker.core.settings import TlsSettings

ALPN = ["h2", "http/1.1"]


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
    return context


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """What other roles are verified by: `tls.ca`, or the system's roots; names always are.

    Under `mutual` it shows this process's certificate.

    Raises:
        ConfigError: a file cannot be used.
    """
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
    """The context towards other roles, made when the first `https` one is met: loading the system's
    roots takes a start 30 ms."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise ConfigError now where the configured files cannot be used; blocking."""
        if self._tls.ca or self._tls.certificate:
            self.context()

    def context(self) -> ssl.SSLContext:
        """See `client_context`; from any thread."""
        with self._lock:
            if self._context is None:
                self._context = client_context(self._tls)
            return self._context

    async def towards(self, url: str) -> ssl.SSLContext | None:
        """What a connection to the role at this URL takes, None where that speaks no TLS."""
        if not url.startswith("https://"):
            return None
        return self._context or await asyncio.to_thread(self.context)


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
