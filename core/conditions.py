"""Conditions of a request on what is stored (RFC 9110 section 13); pure."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_tz

import msgspec

from hawker.core.errors import BadRequest

# One member of a list of entity tags, and what separates it from the next.
_TAG = re.compile(r'[ \t,]*((?:W/)?"[!#-~\x80-\xff]*")[ \t]*(?:,|$)')


class PreconditionFailed(BadRequest):
    """What is stored is not what the request is for (HTTP 412)."""

    title, status = "precondition failed", 412
    headers: Mapping[str, str] = {}


class Validators(msgspec.Struct, frozen=True):
    """What tells one representation from another: a strong entity tag with its quotes, and seconds
    since 1970 of its last change, None where nobody knows."""

    etag: str
    modified: int | None = None

    @property
    def date(self) -> str | None:
        """The last change as a field's value."""
        return None if self.modified is None else formatdate(self.modified, usegmt=True)

    @property
    def fields(self) -> dict[str, str]:
        """The header fields that tell them."""
        date = self.date
        return {"etag": self.etag} | ({} if date is None else {"last-modified": date})


class Conditions(msgspec.Struct, frozen=True):
    """The values of a GET's or HEAD's conditional fields, each None where it was not sent."""

    match: str | None = None
    unmodified_since: str | None = None
    none_match: str | None = None
    modified_since: str | None = None
    range: str | None = None

    @property
    def preconditions(self) -> bool:
        """Whether the answer may be another than the content."""
        return any((self.match, self.unmodified_since, self.none_match, self.modified_since))

    def not_modified(self, current: Validators) -> bool:
        """Whether the client has this representation already (304); section 13.2.2, 1 to 4.

        Conditions on a date are ignored where there is no date.

        Raises:
            PreconditionFailed: the request is for another representation.
        """
        if self.match is not None:
            if self.match.strip() != "*" and current.etag not in _tags(self.match):
                raise PreconditionFailed(f"the content is {current.etag}, not {self.match}")
        elif _later(current, self.unmodified_since) is True:
            raise PreconditionFailed(f"the content was changed after {self.unmodified_since}")
        if self.none_match is not None:
            weak = (tag.removeprefix("W/") for tag in _tags(self.none_match))
            return self.none_match.strip() == "*" or current.etag in weak
        return _later(current, self.modified_since) is False

    def allow_range(self, current: Validators) -> bool:
        """Whether a Range field counts: its client has the beginning of this representation."""
        if self.range is None or self.range.strip() == current.etag:
            return True
        # The very date that was sent, no other form of it.
        return self.range.strip() == current.date


def _tags(field: str) -> list[str]:
    """The entity tags of a list, up to whatever is none."""
    tags: list[str] = []
    position = 0
    while match := _TAG.match(field, position):
        tags.append(match[1])
        position = match.end()
    return tags


def _later(current: Validators, date: str | None) -> bool | None:
    """Whether the last change was after a date; None where one of both is unknown."""
    if current.modified is None or date is None:
        return None
    try:
        fields = parsedate_tz(date)
        return None if fields is None else current.modified > calendar.timegm(fields[:6])
    except (ValueError, OverflowError, IndexError):
        return None
