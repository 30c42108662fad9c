"""Quotas of tenants over swarms of processes, and what managers show of them.

    python -m tests.outside.quotas

Runs `quota_swarms.py`, `quota_restarts.py`, `quota_managers.py` and `window_managers.py`, which
wait for seconds of bandwidth and for processes that were killed: some four minutes. Needs nothing
but Python. Exits with 1 where a test fails.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WHAT = ("quota_swarms.py", "quota_restarts.py", "quota_managers.py", "window_managers.py")


def main() -> int:
    files = [str(HERE / name) for name in WHAT]
    return int(subprocess.run([sys.executable, "-m", "pytest", "-q", *files]).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
