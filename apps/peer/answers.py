"""What a request for content is answered: status, header fields, and which bytes; pure."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from operator import itemgetter

from starlette.datastructures import Headers
from starlette.requests import Request

from hawker.core.conditions import Conditions, PreconditionFailed, Validators
from hawker.core.digests import Digest
from hawker.core.pieces import MAX_PIECES, MIB, UNKNOWN_PIECE_LENGTH
from hawker.core.ranges import BEYOND, ByteRange, RangeSpec, Unsatisfiable, parse_ranges, satisfy

CONTENT_TYPE = "application/octet-stream"
FIRST_BYTE = ByteRange(0, 1)
# Of content whose length is unknown ranges are waited for where they lie this close together, and
# not beyond the last piece that there can be.
BLIND = 16 * MIB
FARTHEST = MAX_PIECES * UNKNOWN_PIECE_LENGTH


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request's fields ask for."""

    head: bool
    ranges: list[RangeSpec] | None
    conditions: Conditions

    @classmethod
    def of(cls, request: Request) -> Asked:
        head = request.method == "HEAD"
        fields = request.headers
        return cls(
            head,
            # Range is defined for GET alone.
            None if head else parse_ranges(_joined(fields, "range")),
            Conditions(
                match=_joined(fields, "if-match"),
                unmodified_since=_joined(fields, "if-unmodified-since"),
                none_match=_joined(fields, "if-none-match"),
                modified_since=_joined(fields, "if-modified-since"),
                range=_joined(fields, "if-range"),
            ),
        )

    @property
    def first_wish(self) -> ByteRange | None:
        """No more than what is asked for, as far as that is known before the content is."""
        if self.head or self.conditions.preconditions:
            return FIRST_BYTE
        if self.ranges is None:
            return None
        starts = [(spec.first, spec.last) for spec in self.ranges if spec.first is not None]
        first, last = min(starts, key=itemgetter(0), default=(0, 0))
        return ByteRange(first, None if last is None else last + 1)


def _joined(headers: Headers, name: str) -> str | None:
    """A field's lines as one (RFC 9110 section 5.3): a second Range makes the set a wrong one."""
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of the content; `total` None while its length is not.

    What is `passing` is not kept once it was delivered: there is no way back.
    """

    validators: Validators
    total: int | None
    digest: Digest | None = None
    passing: bool = False

    def answer(self, asked: Asked) -> Answer:
        """What the request gets.

        Raises:
            PreconditionFailed, Unsatisfiable: with the fields of the answer.
        """
        try:
            if asked.conditions.not_modified(self.validators):
                return Answer(304, self.validators.fields)
            spans = None
            if asked.ranges is not None and asked.conditions.allow_range(self.validators):
                spans = self._spans(asked.ranges)
        except PreconditionFailed as exc:
            exc.headers = self.validators.fields
            raise
        except Unsatisfiable as exc:
            place = {} if self.total is None else {"content-range": f"bytes */{self.total}"}
            exc.headers = {**self.validators.fields, "accept-ranges": "bytes", **place}
            raise
        return self._whole() if spans is None else self._partial(spans)

    def _spans(self, ranges: list[RangeSpec]) -> list[ByteRange] | None:
        """The bytes to send, None for all of them."""
        if ranges and self.total == 0:
            # No Content-Range can tell of no bytes.
            return None
        if not ranges or self.total is not None:
            return satisfy(ranges, self.total or 0)
        return satisfy(ranges, BEYOND) if _close_together(ranges) else None

    def _whole(self) -> Answer:
        fields = self._fields()
        if self.total is not None:
            fields["content-length"] = str(self.total)
        return Answer(200, fields)

    def _partial(self, spans: list[ByteRange]) -> Answer:
        if self.passing:
            spans = sorted(spans)
        answer = Answer(206, self._fields(), spans)
        if len(spans) == 1:
            answer.fields["content-range"] = self._place(spans[0])
        else:
            # Content that has this in it by chance has 128 bits of luck.
            boundary = secrets.token_hex(16)
            answer.fields["content-type"] = f"multipart/byteranges; boundary={boundary}"
            for span in spans:
                head = f"Content-Type: {CONTENT_TYPE}\r\nContent-Range: {self._place(span)}"
                answer.heads.append(f"\r\n--{boundary}\r\n{head}\r\n\r\n".encode())
            answer.heads.append(f"\r\n--{boundary}--\r\n".encode())
        length = sum(map(len, answer.heads)) + sum(span.size for span in spans)
        answer.fields["content-length"] = str(length)
        return answer

    def _place(self, span: ByteRange) -> str:
        assert span.stop is not None
        total = "*" if self.total is None else self.total
        return f"bytes {span.start}-{span.stop - 1}/{total}"

    def _fields(self) -> dict[str, str]:
        fields = {"content-type": CONTENT_TYPE, "accept-ranges": "bytes", **self.validators.fields}
        if self.digest is not None and self.digest.algorithm == "sha256":
            coded = base64.b64encode(bytes.fromhex(self.digest.hex)).decode()
            fields["repr-digest"] = f"sha-256=:{coded}:"
        return fields


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and fields; `spans` are the bytes in order, None for all.

    Of several spans `heads` has what goes before each, and after the last.
    """

    status: int
    fields: dict[str, str]
    spans: list[ByteRange] | None = None
    heads: list[bytes] = field(default_factory=list)

    def before(self, number: int) -> bytes:
        """What goes before a span; for their number, what ends the body."""
        return self.heads[number] if self.heads else b""


def _close_together(ranges: list[RangeSpec]) -> bool:
    """Whether the ranges can be sent without knowing the length, and are soon here."""
    starts = [spec.first for spec in ranges if spec.first is not None]
    lasts = [spec.last for spec in ranges if spec.last is not None]
    definite = len(starts) == len(lasts) == len(ranges)
    return definite and max(lasts) < min(min(starts) + BLIND, FARTHEST)
