"""A cable with a delay, for kernels that have no netem: two tap devices and what lies between.

    python -m benchmarks.swarm.shim FIRST SECOND MILLISECONDS

Says a JSON line once both devices are there, and ends with its input. Frames come with the header
of virtio-net and pass unread, so that those that wait to be segmented stay in one: a call moves
up to 64 KiB (Linux, Documentation/networking/tuntap.rst).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CHECKSUMS, TCP4 = 0x01, 0x02
HEADER_BYTES = 10
FRAME = 1 << 17
MOST_FRAMES = 64


def open_tap(name: str) -> int:
    """The descriptor of a new tap device in this process's namespace."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("i", HEADER_BYTES))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, CHECKSUMS | TCP4)
    return descriptor


def carry(ends: tuple[int, int], delay: float) -> None:
    """Frames from each end to the other, `delay` seconds later, until standard input ends."""
    waiting: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    poll = select.poll()
    for descriptor in (0, *ends):
        poll.register(descriptor, select.POLLIN)
    while True:
        due = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic()) * 1000
        for descriptor, _ in poll.poll(wait):
            if descriptor == 0:
                if not os.read(0, 1):
                    return
                continue
            with contextlib.suppress(BlockingIOError):
                for _ in range(MOST_FRAMES):
                    frame = os.read(descriptor, FRAME)
                    waiting[other[descriptor]].append((time.monotonic() + delay, frame))
        now = time.monotonic()
        for end, queue in waiting.items():
            while queue and queue[0][0] <= now:
                _, frame = queue.popleft()
                # A device that is down loses what it is given, as a cable would.
                with contextlib.suppress(OSError):
                    os.write(end, frame)


def main() -> None:
    first, second, milliseconds = sys.argv[1:]
    ends = (open_tap(first), open_tap(second))
    print(json.dumps({"ready": True}), flush=True)
    carry(ends, float(milliseconds) / 1000)


if __name__ == "__main__":
    main()
