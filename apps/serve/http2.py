"""HTTP/2 on hypercorn's protocol: flow control both ways, and streams that end alone.

What is not right with hypercorn 0.18's own, and stands here instead:

- An answer that ends before its request's body does makes the rest of that body a `KeyError`, which
  ends the connection with all its streams.
- An app that sends faster than its client reads is never held up, as the buffer compares what it
  just gave away with its limit and not what it still holds.
- Of a connection that is lost, apps that wait to send wait for ever; of a stream that is reset, its
  buffer stays.
- A body that nobody reads stops the reading of the whole connection.
- An answer that broke off is never ended: its client waits.
- CONNECT without a path, and paths that are not ASCII, end the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypercorn.events import Closed
from hypercorn.protocol.events import Body, StreamClosed
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError, H2Protocol, StreamBuffer

from hawker.apps.serve.requests import AppTasks, Inbox, StreamTasks, is_proper

# Of a body that comes after its answer so much is thrown away, before its stream is reset: clients
# that send everything before they look at the answer would never see it.
LATE = 1024 * 1024
PART = 128 * 1024
# Apps of streams that were reset and have not ended yet; more are a flood (CVE-2023-44487).
MAX_RUNNING = 1024
# A client that gives no room for more of an answer for so long is not there any more.
STALL = 60.0


class SendBuffer(StreamBuffer):
    """What an app sent and its client did not take yet."""

    @property
    def finished(self) -> bool:
        """The app sent all of it, or nobody wants it any more."""
        return self._complete

    async def push(self, data: bytes) -> None:
        """Raises TimeoutError where the client takes nothing for `STALL` seconds."""
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        left = len(self.buffer)
        while len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._paused.clear()
            try:
                async with asyncio.timeout(STALL):
                    await self._paused.wait()
            except TimeoutError:
                if len(self.buffer) >= left:
                    raise
            left = len(self.buffer)

    async def pop(self, max_length: int) -> bytes:
        size = min(len(self.buffer), max_length)
        data = bytes(memoryview(self.buffer)[:size])
        del self.buffer[:size]
        if len(self.buffer) < BUFFER_HIGH_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class Http2(H2Protocol):
    """One connection."""

    task_group: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # WebSocket is not offered: hypercorn never forgets a stream that it was refused on.
        del self.connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        self._tasks: AppTasks = self.task_group
        self._late: dict[int, int] = {}

    # ------------------------------------------------------------------ from the client

    async def handle(self, event: Any) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for stream in list(self.stream_buffers):
                await self._forget(stream)

    async def _handle_events(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case RequestReceived() if self.context.terminated.is_set():
                    # Not begun: the client may ask somebody else (RFC 9113 8.7).
                    self._reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
                case RequestReceived() if self._tasks.running > MAX_RUNNING:
                    self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                    await self._flush()
                    await self.send(Closed())
                    return
                case RequestReceived() if not is_proper(event.headers):
                    await self._refuse(event.stream_id, event.headers)
                case DataReceived():
                    await self._body(event)
                case StreamEnded():
                    self._late.pop(event.stream_id, None)
                    await super()._handle_events([event])
                case StreamReset():
                    self._late.pop(event.stream_id, None)
                    await super()._handle_events([event])
                    await self._forget(event.stream_id)
                case _:
                    await super()._handle_events([event])
        await self._flush()

    async def _body(self, event: DataReceived) -> None:
        """The connection's room is given back at once, the stream's when its app has read."""
        whole, size = event.flow_controlled_length, len(event.data)
        if whole:
            # What came behind it may have ended the connection already.
            with contextlib.suppress(ProtocolError):
                self.connection.increment_flow_control_window(whole)
        stream = self.streams.get(event.stream_id)
        if stream is None:
            self._throw_away(event.stream_id, whole)
            return
        self._give_room(event.stream_id, whole - size)
        await stream.handle(Body(stream_id=event.stream_id, data=event.data))

    def _throw_away(self, stream: int, size: int) -> None:
        late = self._late.get(stream, 0) + size
        if late <= LATE:
            self._late[stream] = late
            self._give_room(stream, size)
        else:
            self._late.pop(stream, None)
            self._reset(stream, ErrorCodes.NO_ERROR)

    def _give_room(self, stream: int, size: int) -> None:
        if size:
            # h2 knows a stream no more once it was reset.
            with contextlib.suppress(ProtocolError, KeyError):
                self.connection.increment_flow_control_window(size, stream)

    async def _read(self, stream: int, size: int) -> None:
        """An app has read so many bytes of its request's body."""
        self._give_room(stream, size)
        await self._flush()

    async def _refuse(self, stream: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        connect = (b":method", b"CONNECT") in headers
        status = b"501" if connect else b"400"
        with contextlib.suppress(ProtocolError):
            self.connection.send_headers(
                stream, [(b":status", status), (b"content-length", b"0")], end_stream=True
            )

    async def _create_stream(self, request: Any) -> None:
        inbox = Inbox(None, partial(self._read, request.stream_id))
        self.task_group = StreamTasks(self._tasks, inbox)
        try:
            await super()._create_stream(request)
        finally:
            self.task_group = self._tasks
        self.stream_buffers[request.stream_id] = SendBuffer(self.context.event_class)

    async def _priority_updated(self, event: Any) -> None:
        """RFC 9113 took priorities away; the tree of them is bounded and would overflow."""

    # ------------------------------------------------------------------ to the client

    async def stream_send(self, event: Any) -> None:
        if isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            if isinstance(buffer, SendBuffer) and not buffer.finished:
                await self._break_off(event.stream_id)
        try:
            if isinstance(event, Body):
                await self._send_body(event)
            else:
                await super().stream_send(event)
        except TimeoutError:
            await self._close_stream(event.stream_id)
            await self._break_off(event.stream_id)

    async def _send_body(self, event: Body) -> None:
        """In parts, each once there is room: the buffer copies what it is given."""
        data = memoryview(event.data)
        for start in range(0, len(data), PART):
            part: Any = data[start : start + PART]
            await super().stream_send(Body(stream_id=event.stream_id, data=part))

    async def _send_data(self, stream_id: int) -> None:
        # The stream may be forgotten while a part of it is written.
        with contextlib.suppress(KeyError):
            await super()._send_data(stream_id)

    async def _break_off(self, stream: int) -> None:
        """The rest of an answer will not come: its client must not wait for it."""
        self._reset(stream, ErrorCodes.INTERNAL_ERROR)
        await self._forget(stream)
        await self._flush()

    def _reset(self, stream: int, code: ErrorCodes) -> None:
        with contextlib.suppress(ProtocolError):
            self.connection.reset_stream(stream, code)

    async def _forget(self, stream: int) -> None:
        """Nothing more is sent on this stream; an app that waits to send waits no longer."""
        buffer = self.stream_buffers.pop(stream, None)
        if buffer is not None:
            await buffer.close()
            self.priority.remove_stream(stream)

    async def say_goodbye(self) -> None:
        """GOAWAY on a connection without streams. Earlier it would end those that run: clients made
        with h2, as httpx, take no more frames after it. What they ask meanwhile is refused."""
        if not self.streams:
            with contextlib.suppress(ProtocolError):
                self.connection.close_connection()
            await self._flush()
