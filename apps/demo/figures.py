"""What a demo measured; `--json` prints it as it is. Bytes, seconds, bytes per second."""

from __future__ import annotations

import msgspec


class PeerFigures(msgspec.Struct, frozen=True):
    """One peer's download: what came from where, and whether the stored file has the right digest.

    `problem` says why where the download failed; `seconds` is then None.
    """

    name: str
    host: str
    seconds: float | None
    rate: float | None
    from_seed: int
    from_peers: int
    from_origin: int
    sha256: str
    right: bool
    problem: str = ""


class OriginFigures(msgspec.Struct, frozen=True):
    """What the origin itself counted while the swarm ran; the plain download before is not in it.

    `times` is the content bytes over the file's size, None for an empty file. `unfinished` are
    requests whose body was not sent to its end.
    """

    content_bytes: int
    requests: int
    unfinished: int
    times: float | None


class Figures(msgspec.Struct, frozen=True):
    """Everything the demo measured.

    `uplink` is the rate the origin was held to, None where the origin is not ours. `plain_seconds`
    is one measured plain download, `plain_all_seconds` that of every peer over the shared uplink,
    computed. `origin` is None where the origin cannot be asked for its count.
    """

    source: str
    size: int
    sha256: str
    peers: int
    uplink: float | None
    plain_seconds: float
    plain_rate: float
    plain_all_seconds: float
    swarm_seconds: float
    times_faster: float
    origin: OriginFigures | None
    seed_read: int
    rows: list[PeerFigures]
    svg: str
    kept: str = ""

    @property
    def right(self) -> bool:
        """Every peer has the right file."""
        return all(row.right for row in self.rows)
