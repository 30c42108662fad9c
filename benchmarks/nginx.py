"""nginx as origin and reference: cleartext HTTP/1.1 and HTTP/2, and both over TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Certificate

# A worker that root starts would run as nobody, who may not read the temporary directory.
USER = "user root;\n" if os.geteuid() == 0 else ""
CONFIGURATION = """\
{user}worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 256; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    client_body_temp_path {directory}/tmp;
    proxy_temp_path {directory}/tmp;
    fastcgi_temp_path {directory}/tmp;
    uwsgi_temp_path {directory}/tmp;
    scgi_temp_path {directory}/tmp;
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{http2} http2;
        root {directory}/www;
    }}
{secure}{more}}}
"""
SECURE = """\
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {directory}/www;
    }}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx; its files are in `www` of its directory."""

    pid: int
    plain: str
    http2: str
    secure: str
    configuration: str

    @property
    def pids(self) -> list[int]:
        """The master and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]


@contextlib.contextmanager
def nginx(
    directory: Path, certificate: Certificate | None = None, *, more: str = ""
) -> Iterator[Nginx]:
    """nginx while inside; `secure` only with a certificate. `more` is configured besides, with
    {directory} and {plain}, the port of cleartext HTTP/1.1."""
    ports = free_ports(3)
    (directory / "www").mkdir(exist_ok=True)
    secure = ""
    if certificate is not None:
        secure = SECURE.format(
            port=ports[2],
            directory=directory,
            certificate=certificate.certificate,
            key=certificate.key,
        )
    configuration = CONFIGURATION.format(
        user=USER,
        directory=directory,
        plain=ports[0],
        http2=ports[1],
        secure=secure,
        more=more.format(directory=directory, plain=ports[0]),
    )
    (directory / "nginx.conf").write_text(configuration)
    process = subprocess.Popen(
        ["nginx", "-c", str(directory / "nginx.conf"), "-e", str(directory / "nginx.log")],
        start_new_session=True,
    )
    try:
        _wait(process, ports[0], directory / "nginx.log")
        plain, http2, tls = (f"://127.0.0.1:{port}" for port in ports)
        yield Nginx(process.pid, f"http{plain}", f"http{http2}", f"https{tls}", configuration)
    finally:
        process.terminate()
        process.wait(10)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"nginx did not start, see {log}")
        time.sleep(0.02)
