"""A digest over all of some content, checked while it is stored or from its file."""

from __future__ import annotations

import logging
from pathlib import Path

from hawker.core.digests import Digest
from hawker.core.errors import BadRequest, DigestMismatch, StorageFailed
from hawker.core.pieces import MIB

log = logging.getLogger(__name__)


class WholeDigest:
    """Hashes content as it is stored in order; what came otherwise is read back from the file.

    Blocking; used from one thread at a time.
    """

    def __init__(self, digest: Digest, url: str) -> None:
        self._digest = digest
        self._url = url
        self._hasher = digest.hasher()
        self._at = 0

    def __str__(self) -> str:
        return str(self._digest)

    def feed(self, offset: int, part: memoryview) -> None:
        """These bytes were stored at this offset."""
        if offset == self._at:
            self._hasher.update(part)
            self._at += len(part)

    def reached(self, total: int) -> bool:
        """All of it came by in order, so that no file is needed."""
        return self._at == total

    def check(self, path: Path) -> None:
        """Compare, reading from the file what did not come by in order.

        Raises:
            DigestMismatch: the content is not what the origin says it is.
            StorageFailed: the file cannot be read.
        """
        buffer = memoryview(bytearray(MIB))
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(self._at)
                while size := file.readinto(buffer):
                    self.feed(self._at, buffer[:size])
        except OSError as exc:
            raise StorageFailed(f"{path} cannot be read: {exc.strerror}") from exc
        try:
            self._digest.check(self._hasher, self._url)
        except DigestMismatch as exc:
            exc.hint = "the content at the origin is not what the digest names"
            raise


def stated(text: str, total: int | None, url: str) -> WholeDigest | None:
    """The digest that an origin states in its answer; None where it states none.

    Raises:
        DigestMismatch: the content is empty, and its digest another.
    """
    if not text:
        return None
    try:
        digest = Digest.parse(text)
    except BadRequest as exc:
        log.warning("its origin states no digest: %s", exc)
        return None
    if total == 0:
        # Whoever hears of nothing has all of it at once.
        digest.check(digest.hasher(), url)
    return WholeDigest(digest, url)
