"""The `zstd` coding (RFC 8878) at level 1: the fastest that still pays on slow links."""

from __future__ import annotations

import sys

from hawker.core.contracts import Codec
from hawker.pluggy_specs import hookimpl

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1
WORTH = 0.9
# What one feed may decode to: a frame of zeros would otherwise fill the memory.
MAX_OUTPUT = 64 * 1024 * 1024


class ZstdDecoder:
    """Decodes one frame as it arrives."""

    def __init__(self) -> None:
        self._decompressor = zstd.ZstdDecompressor()

    def feed(self, data: bytes | memoryview) -> bytes:
        if self._decompressor.eof:
            if len(data):
                raise ValueError("bytes after the end of the zstd frame")
            return b""
        try:
            out = self._decompressor.decompress(data, MAX_OUTPUT)
        except zstd.ZstdError as exc:
            raise ValueError(f"not a zstd frame: {exc}") from exc
        if not self._decompressor.needs_input and not self._decompressor.eof:
            raise ValueError(f"a part of a zstd frame decodes to more than {MAX_OUTPUT} bytes")
        if self._decompressor.unused_data:
            raise ValueError("bytes after the end of the zstd frame")
        return out

    @property
    def finished(self) -> bool:
        return bool(self._decompressor.eof)


class ZstdCodec:
    """The zstd content coding."""

    def worthwhile(self, sample: bytes | memoryview) -> bool:
        """Whether level 1 saves a tenth of the sample (about 150 µs on 64 KiB of text)."""
        return len(zstd.compress(sample, LEVEL)) < WORTH * len(sample)

    def encode(self, data: bytes | memoryview) -> bytes:
        return zstd.compress(data, LEVEL)

    def decoder(self) -> ZstdDecoder:
        return ZstdDecoder()


@hookimpl
def hawker_codec(coding: str) -> Codec:
    return ZstdCodec()
