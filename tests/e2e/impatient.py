"""A daemon that waits less long for an origin. `impatient.py SECONDS serve scheduler|peer …`"""

from __future__ import annotations

import sys

import httpx

from hawker.apps.cli import run
from hawker.core import outgoing
from hawker.core.scheduling import origin
from hawker.core.transfer import intake, reader
from hawker.plugins.sources import http


def main() -> int:
    seconds = float(sys.argv[1])
    outgoing.HEAD_TIMEOUT = seconds
    outgoing.TIMEOUT = httpx.Timeout(seconds)
    defaults = http.HttpSource.__init__.__kwdefaults__
    assert defaults is not None
    defaults["slowest_over"] = seconds
    reader.FRUITLESS = seconds / 2
    intake.STORE_EVERY = seconds / 4
    origin.STUCK = seconds + 1.0
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
