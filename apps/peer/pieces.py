"""The piece server: plain bytes of consecutive pieces, or refusal at once without a free slot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.datastructures import Headers

from hawker.apps.peer.reading import read, send_span
from hawker.apps.web.access import Access
from hawker.apps.web.departure import until_departed
from hawker.core.contracts import Caller, Codec
from hawker.core.errors import BadRequest, NotFound
from hawker.core.ids import GENERATION_ID, TASK_ID
from hawker.core.pieces import KIB, MAX_PIECES, MIB, PieceSet, Run
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry
from hawker.core.transfer.slots import UploadSlots

# Piece numbers have seven digits at most; Python refuses to convert very long ones by itself.
_NUMBER = re.compile(r"^[0-9]{1,7}\Z")
SAMPLE = 64 * KIB
# A run is coded as a whole in memory; longer ones go as they are.
MAX_CODED = 16 * MIB


class Stored(Protocol):
    """What the piece server needs of a store."""

    def get(self, task: str, generation: str, caller: Caller) -> Entry | None:
        """The generation, if it is stored and this caller may take it."""
        ...


class Turns(Protocol):
    """Who is told what children ask for and get: task, generation, run of pieces."""

    def asked(self, task: str, generation: str, run: Run) -> None:
        """It is asked for."""
        ...

    def served(self, task: str, generation: str, run: Run) -> None:
        """It left this peer."""
        ...


class PieceServer:
    """ASGI endpoint of `…/pieces/{first}-{last}`."""

    def __init__(
        self,
        store: Stored,
        slots: UploadSlots,
        access: Access,
        codecs: Mapping[str, Codec],
        turns: Turns,
    ) -> None:
        self._store = store
        self._slots = slots
        self._access = access
        self._codecs = codecs
        self._turns = turns

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one GET.

        Raises:
            Unauthenticated, Forbidden: the token does not allow pieces of this task.
            NotFound: the generation is not stored, or not all of the pieces are valid.
            Busy: no free slot.
        """
        task, generation, run = _parameters(scope)
        caller = await self._access.require_token(scope, "pieces", task=task)
        entry = self._store.get(task, generation, caller)
        if entry is None:
            raise NotFound(f"generation {generation} of task {task} is not stored here")
        coding = self._acceptable(scope)
        self._turns.asked(task, generation, run)
        with self._slots.taken(), entry.using():
            await entry.prepare()
            if not PieceSet.of_run(*run) <= entry.valid or entry.windowed:
                raise NotFound(f"pieces {run[0]}-{run[1]} of task {task} are not all valid here")
            entry.check_unchanged()
            span = entry.layout.span(run)
            # Nobody watches for a client that leaves: what is sent to it then goes nowhere, at
            # once, and watching would take as much time as sending a piece.
            await self._send(entry, span, coding, send)
            # The slot is for the link's sake, and the kernel takes a piece long before it is sent.
            await until_departed(scope)
        self._turns.served(task, generation, run)

    def _acceptable(self, scope: Any) -> str:
        accepted = Headers(scope=scope).get("accept-encoding", "")
        for token in accepted.split(","):
            name, _, weight = token.strip().lower().partition(";")
            if name in self._codecs and weight.replace(" ", "") not in ("q=0", "q=0.0"):
                return name
        return ""

    async def _send(self, entry: Entry, span: ByteRange, coding: str, send: Any) -> None:
        assert span.stop is not None
        size = span.stop - span.start
        headers = [(b"content-type", b"application/octet-stream")]
        coded = await self._encode(entry, span, coding) if coding and size <= MAX_CODED else None
        if coded is not None:
            headers.append((b"content-encoding", coding.encode()))
            headers.append((b"vary", b"accept-encoding"))
            size = len(coded)
        headers.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if coded is None:
            await send_span(entry, span, send, last=True)
        else:
            await send({"type": "http.response.body", "body": coded})
        self._slots.sent_bytes += size

    async def _encode(self, entry: Entry, span: ByteRange, coding: str) -> bytes | None:
        """The span in this coding, None where a sample says that it does not pay."""
        assert span.stop is not None
        codec = self._codecs[coding]
        size = span.stop - span.start
        sample = await read(entry.fd, span.start, min(SAMPLE, size))
        if not await asyncio.to_thread(codec.worthwhile, sample):
            return None
        data = await read(entry.fd, span.start, size)
        entry.check_unchanged()
        return await asyncio.to_thread(codec.encode, data)


def _parameters(scope: Any) -> tuple[str, str, tuple[int, int]]:
    parameters = scope["path_params"]
    task, generation = parameters["task"], parameters["generation"]
    first, last = parameters["first"], parameters["last"]
    if not TASK_ID.match(task) or not GENERATION_ID.match(generation):
        raise BadRequest("the path names no task and generation")
    if not _NUMBER.match(first) or not _NUMBER.match(last):
        raise BadRequest("the path names no run of pieces", hint="such as pieces/0-3")
    run = int(first), int(last)
    if not run[0] <= run[1] < MAX_PIECES:
        raise BadRequest(f"{first}-{last} is no run of pieces")
    return task, generation, run
