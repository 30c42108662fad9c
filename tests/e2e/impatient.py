"""The daemon, but for how long it waits for an origin. `impatient.py SECONDS serve peer …`"""

from __future__ import annotations

import sys

import httpx

from hawker.apps.cli import run
from hawker.core.transfer import reader
from hawker.plugins.sources import http


def main() -> int:
    seconds = float(sys.argv[1])
    http.HEAD_TIMEOUT = seconds
    http.TIMEOUT = httpx.Timeout(seconds)
    defaults = http.HttpSource.__init__.__kwdefaults__
    assert defaults is not None
    defaults["slowest_over"] = seconds
    reader.FRUITLESS = seconds / 2
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
