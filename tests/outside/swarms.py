"""What takes minutes: swarms under managers, quotas over swarms, liars, origins with limits.

    python -m tests.outside.swarms

Runs the files of `tests/e2e` that the tests leave out (`LONG` in `tests/conftest.py`), and those
here that wait for seconds of bandwidth and for processes that were killed; some eight minutes.
Needs nothing but Python. Exits with 1 where a test fails.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import LONG

HERE = Path(__file__).parent
OURS = ("quota_swarms.py", "quota_restarts.py", "quota_managers.py", "window_managers.py")


def main() -> int:
    files = [str(HERE.parent / "e2e" / name) for name in LONG]
    files += [str(HERE / name) for name in OURS]
    return int(subprocess.run([sys.executable, "-m", "pytest", "-q", *files]).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
