"""Logs of a process: one line an event, with the request and the task it belongs to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from hawker.core.masking import mask
from hawker.core.settings import TelemetrySettings
from hawker.core.telemetry import REQUEST, TASK

# In lines for people; whole in JSON.
ID_DIGITS = 16
NOISY = ("httpx", "httpcore", "hypercorn", "aiobotocore", "botocore")


def set_up_logs(settings: TelemetrySettings, roles: Sequence[str]) -> None:
    """Write this process's logs to standard error, as `telemetry` says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(roles) if settings.log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """The task and the request the record belongs to, as far as they are known."""
    ids = {
        "task": getattr(record, "task", "") or TASK.get(),
        "request": getattr(record, "request", "") or REQUEST.get(),
    }
    return {name: value for name, value in ids.items() if value}


class _Text(logging.Formatter):
    """For people: the ids stand at the end of the first line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(ids)s")

    def format(self, record: logging.LogRecord) -> str:
        ids = [f"{name}={value[:ID_DIGITS]}" for name, value in _ids(record).items()]
        record.ids = f" [{' '.join(ids)}]" if ids else ""
        return mask(super().format(record))


class _Json(logging.Formatter):
    """For machines: one object a line; `time` is RFC 3339 in UTC."""

    def __init__(self, roles: Sequence[str]) -> None:
        super().__init__()
        self._roles = list(roles)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
            "roles": self._roles,
            **_ids(record),
        }
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()
