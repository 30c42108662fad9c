"""Which daemon a command talks to, and what it shows it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from hawker.core.contracts import CLIENT_VERBS
from hawker.core.errors import Unavailable
from hawker.core.settings import Settings

if TYPE_CHECKING:
    from hawker.core.clients.daemon import DaemonClient

CONNECT_TIMEOUT = 5.0
# What the command line does at a daemon; its tokens allow no more.
VERBS = (*CLIENT_VERBS, "hosts")


def find_daemon(settings: Settings, endpoint: str | None) -> str | None:
    """The endpoint of the daemon to use, None where there is no local one.

    Raises:
        Unavailable: a local daemon is there and cannot be used: working beside it would read the
            origin a second time.
    """
    if endpoint is not None:
        return endpoint.removeprefix("unix:")
    path = settings.unix_socket
    return str(path) if _listens(path) else None


def open_daemon(settings: Settings, endpoint: str) -> DaemonClient:
    """A client of the daemon at `endpoint`."""
    # Half of a short command's time is this import, and not every command needs it.
    from hawker.core.clients.daemon import DaemonClient

    tls = None
    if endpoint.startswith("https://"):
        from hawker.core.tls import client_context

        tls = client_context(settings.tls)
    return DaemonClient(endpoint, token=_token(settings, endpoint), tls=tls)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(str(path))
        except PermissionError as exc:
            raise Unavailable(
                f"the daemon's socket {path} belongs to somebody else",
                hint="choose an own data directory with --data",
            ) from exc
        except TimeoutError as exc:
            raise Unavailable(f"the daemon at {path} does not answer") from exc
        except OSError:
            # No such file, a left-over of a killed daemon, a path too long to listen on.
            return False
    return True


def _token(settings: Settings, endpoint: str) -> str:
    """The token that was set, or one of the cluster key that this user holds.

    A key that nobody named is used for the local socket only: a token of it would be worth
    something to whoever listens at a URL.
    """
    if settings.auth.token:
        return settings.auth.token
    key_file = settings.cluster_key_file
    if not settings.cluster.key_file:
        local = "://" not in endpoint
        if not local or not os.access(key_file, os.R_OK):
            return ""
    from hawker.core.tokens import ClusterKey, read_key_file

    return ClusterKey(read_key_file(key_file)).mint("", VERBS, subject="command-line")
