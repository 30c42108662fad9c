"""A manager's side of memberships that does what a test tells it to: refuses, freezes, dies."""

from __future__ import annotations

import contextlib
import datetime
import json
import secrets
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hawker.core.certificates import builder, certificate_pem, common_name
from hawker.core.errors import HawkerError, Unauthenticated
from hawker.core.membership import Enrol, Enrolled, Keepalive, Kept, Renewed

API = "/manager/api/v1"
CLUSTER = "c1"
CLUSTER_KEY = "5c" * 32


class Authority:
    """Signs what it is asked to, for `seconds`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        name = common_name("stand-in")
        self._certificate = (
            builder(name, name, self._key.public_key(), now, now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate_pem(self._certificate).decode()

    def sign(self, csr: str, seconds: float) -> str:
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
        )
        for extension in request.extensions:
            certificate = certificate.add_extension(extension.value, extension.critical)
        return certificate_pem(certificate.sign(self._key, hashes.SHA256())).decode()


class StandIn:
    """On loopback, in threads of its own.

    Attributes:
        kept: what members are told; `tell` changes it.
        refusal: what keepalives are answered with instead.
        frozen: requests wait for this to be clear.
        ahead: by how many seconds its clock is wrong.
    """

    def __init__(self) -> None:
        self.authority = Authority()
        self.lifetime = 3600.0
        self.kind = "peer"
        self.tokens = {"hwe_good"}
        self.members: dict[str, str] = {}
        self.enrolled: list[Enrol] = []
        self.keepalives: list[Keepalive] = []
        self.renewals = 0
        self.refusal: HawkerError | None = None
        self.thawed = threading.Event()
        self.thawed.set()
        self.ahead = 0.0
        self.kept = Kept(20.0, False, "0")
        self._told = threading.Condition()
        self.connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections.add(self.request)
                super().setup()

            def finish(self) -> None:
                outer.connections.discard(self.request)
                with contextlib.suppress(OSError):
                    super().finish()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + outer.ahead)

            def _serve(self) -> None:
                size = int(self.headers.get("content-length", 0))
                body = self.rfile.read(size)
                outer.thawed.wait()
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                status = 200
                try:
                    answer: Any = outer.answer(self.command, self.path, token, body)
                except HawkerError as exc:
                    status, answer = exc.status, exc.problem()
                data = msgspec.json.encode(answer)
                try:
                    self.send_response(status)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True

            do_PUT = do_POST = do_DELETE = _serve

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """It is away, and so are its connections."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def tell(self, **changes: Any) -> None:
        """Other things to be told, under a new revision."""
        with self._told:
            fields = {"revision": secrets.token_hex(4), **changes}
            self.kept = msgspec.structs.replace(self.kept, **fields)
            self._told.notify_all()

    def refuse(self, error: HawkerError | None) -> None:
        with self._told:
            self.refusal = error
            self._told.notify_all()

    def answer(self, method: str, path: str, token: str, body: bytes) -> msgspec.Struct | None:
        where = path.removeprefix(API)
        if (method, where) == ("POST", "/members"):
            return self._enrol(token, msgspec.json.decode(body, type=Enrol))
        if token not in self.members:
            raise Unauthenticated("no such token")
        if method == "PUT":
            return self._keep(msgspec.json.decode(body, type=Keepalive))
        if method == "DELETE":
            del self.members[token]
            return None
        self.renewals += 1
        csr = json.loads(body)["csr"]
        return Renewed(self.authority.sign(csr, self.lifetime), self.authority.pem)

    def _enrol(self, token: str, body: Enrol) -> Enrolled:
        if token not in self.tokens or not body.proven(token):
            raise Unauthenticated("the enrolment's token is not good any more")
        self.tokens.discard(token)
        self.enrolled.append(body)
        value = f"hwm_{secrets.token_hex(8)}"
        self.members[value] = body.host
        return Enrolled(
            id=f"m{len(self.enrolled)}",
            host=body.host,
            cluster=CLUSTER,
            cluster_name="eu",
            kind=self.kind,  # type: ignore[arg-type]
            reason="named by its token",
            token=value,
            cluster_key=CLUSTER_KEY,
            certificate=self.authority.sign(body.csr, self.lifetime),
            ca=self.authority.pem,
        )

    def _keep(self, body: Keepalive) -> Kept:
        self.keepalives.append(body)
        end = time.monotonic() + body.wait
        with self._told:
            while self.refusal is None and self.kept.revision == body.known:
                left = end - time.monotonic()
                if left <= 0 or not self._told.wait(min(left, 0.5)):
                    if left <= 0:
                        break
            if self.refusal is not None:
                raise self.refusal
            return self.kept
