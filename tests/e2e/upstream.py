"""A registry on loopback that counts, asks for tokens, moves, redirects and lies."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.e2e.served import Quiet, Served

INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_OBJECT = re.compile(r"^/v2/(.+)/(manifests|blobs|referrers)/([^/]+)$")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    """An upstream; `sent` counts bytes of bodies by digest, `asked` requests by method and kind.

    Attributes:
        users: by name, their password and the repositories they may pull.
        open: repositories that anybody gets a token for; None asks nobody for tokens.
        lies: what is sent in place of a digest's content.
        answers_head: whether a HEAD for a manifest is understood.
        storage: blobs are had by a signed URL that they redirect to.
        referrers: descriptors of what refers to a digest; None: it has no such list.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.sent: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.seen: list[tuple[str, str, str]] = []
        self.users: dict[str, tuple[str, set[str]]] = {}
        self.open: set[str] | None = None
        self.lies: dict[str, bytes] = {}
        self.answers_head = True
        self.storage = False
        self.referrers: dict[str, list[dict[str, Any]]] | None = {}
        self.pushed: dict[str, bytes] = {}
        registry = self

        class Handler(Quiet):
            def _serve(self) -> None:
                registry.serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        self._served = Served(Handler)
        self.name, self.url = self._served.name, self._served.url

    def close(self) -> None:
        self._served.close()

    # ------------------------------------------------------------------ content

    def put_image(self, repository: str, tag: str, *sizes: int) -> list[str]:
        """An image of random layers of these sizes; returns its manifest's digest and theirs."""
        layers = [os.urandom(size) for size in sizes]
        config = json.dumps({"architecture": "amd64", "os": "linux", "n": os.urandom(8).hex()})
        document = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": self._descriptor(config.encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self._descriptor(layer, "application/vnd.oci.image.layer.v1.tar")
                for layer in layers
            ],
        }
        body = json.dumps(document).encode()
        self.put_manifest(repository, tag, body, IMAGE)
        return [digest_of(body), *(digest_of(layer) for layer in layers)]

    def put_manifest(self, repository: str, tag: str, body: bytes, media_type: str) -> None:
        for reference in (tag, digest_of(body)):
            self.manifests[repository, reference] = body, media_type

    def _descriptor(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    # ------------------------------------------------------------------ answers

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        shown = request.headers.get("authorization", "")
        self.seen.append((request.command, request.path, shown))
        if parts.path == "/token":
            self._token(request, parse_qs(parts.query), shown)
            return
        if parts.path.startswith("/storage/"):
            self._content(request, parts.path.removeprefix("/storage/"))
            return
        if "/blobs/uploads/" in parts.path:
            self._upload(request, parts.path, parts.query)
            return
        if parts.path.endswith("/tags/list"):
            link = f'<{parts.path}?last=b&n=2>; rel="next"'
            self._json(request, 200, {"tags": ["a", "b"]}, {"link": link})
            return
        match = _OBJECT.match(parts.path)
        if match is None:
            self._json(request, 404, {})
            return
        repository, kind, reference = match.groups()
        self.asked[f"{request.command} {kind}"] += 1
        if request.command == "DELETE":
            self._delete(request, repository, kind, reference)
            return
        if not self._allowed(repository, shown):
            realm = f'realm="{self.url}/token",service="{self.name}"'
            challenge = f'Bearer {realm},scope="repository:{repository}:pull"'
            self._json(request, 401, {}, {"www-authenticate": challenge})
        elif kind == "manifests":
            self._manifest(request, repository, reference)
        elif kind == "referrers":
            self._list(request, reference)
        elif self.storage:
            target = f"/storage/{reference}?X-Amz-Signature={os.urandom(4).hex()}&X-Amz-Date=1"
            self._json(request, 307, {}, {"location": target})
        else:
            self._content(request, reference)

    def _allowed(self, repository: str, shown: str) -> bool:
        if self.open is None:
            return True
        scheme, _, token = shown.partition(" ")
        return scheme == "Bearer" and token in (f"anybody-{repository}", f"user-{repository}")

    def _token(
        self, request: BaseHTTPRequestHandler, query: dict[str, list[str]], shown: str
    ) -> None:
        repository = query.get("scope", [""])[0].split(":")[1]
        if shown:
            name, _, password = base64.b64decode(shown.split()[1]).decode().partition(":")
            known, allowed = self.users.get(name, ("", set()))
            if not known or known != password:
                self._json(request, 401, {})
                return
            token = f"user-{repository}" if repository in allowed else "useless"
        else:
            token = f"anybody-{repository}" if repository in (self.open or ()) else "useless"
        self._json(request, 200, {"token": token, "expires_in": 300})

    def _manifest(self, request: BaseHTTPRequestHandler, repository: str, reference: str) -> None:
        found = self.manifests.get((repository, reference))
        if request.command == "HEAD" and not self.answers_head:
            self._json(request, 405, {})
            return
        if found is None or found[1] not in request.headers.get("accept", ""):
            self._json(request, 404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no"}]})
            return
        body, media_type = found
        fields = {"content-type": media_type, "docker-content-digest": digest_of(body)}
        self._send(request, 200, self.lies.get(digest_of(body), body), fields)
        if request.command == "GET":
            self.sent[digest_of(body)] += len(body)

    def _content(self, request: BaseHTTPRequestHandler, digest: str) -> None:
        data = self.lies.get(digest, self.blobs.get(digest))
        if data is None:
            self._json(request, 404, {"errors": [{"code": "BLOB_UNKNOWN", "message": "no"}]})
            return
        fields = {"etag": f'"{digest}"', "docker-content-digest": digest, "accept-ranges": "bytes"}
        status, start, stop = 200, 0, len(data)
        asked = request.headers.get("range", "")
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
            fields["content-range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            status = 206
        self._send(request, status, data[start:stop], fields)
        if request.command == "GET":
            self.sent[digest] += stop - start

    def _list(self, request: BaseHTTPRequestHandler, digest: str) -> None:
        if self.referrers is None:
            self._json(request, 404, {})
            return
        found = self.referrers.get(digest, [])
        self._json(request, 200, {"manifests": found}, {"oci-filters-applied": "artifactType"})

    def _upload(self, request: BaseHTTPRequestHandler, path: str, query: str) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", "0")))
        if request.command == "POST":
            self._json(request, 202, {}, {"location": f"{self.url}{path}one?_state=x"})
            return
        digest = parse_qs(query)["digest"][0]
        self.pushed[digest] = self.blobs[digest] = body
        self._json(request, 201, {}, {"location": path.replace("uploads/one", digest)})

    def _delete(
        self, request: BaseHTTPRequestHandler, repository: str, kind: str, reference: str
    ) -> None:
        if kind == "blobs":
            found = self.blobs.pop(reference, None) is not None
        else:
            found = self.manifests.pop((repository, reference), None) is not None
        self._json(request, 202 if found else 404, {})

    def _json(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        document: Any,
        fields: dict[str, str] | None = None,
    ) -> None:
        kind = {"content-type": "application/json; charset=utf-8"}
        self._send(request, status, json.dumps(document).encode(), kind | (fields or {}))

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, fields: dict[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in fields.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
