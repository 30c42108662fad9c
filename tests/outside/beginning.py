"""What each run with other people's programs begins with."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


def demand(programs: Mapping[str, str], *modules: str) -> None:
    """Exit with 2 where a program (with the Debian package that has it) or a module is missing."""
    missing = {package for program, package in programs.items() if shutil.which(program) is None}
    packages = sorted(missing)
    wheels = [module for module in modules if find_spec(module) is None]
    if packages:
        print(f"these are missing: apt-get install {' '.join(packages)}", file=sys.stderr)
    if wheels:
        install = f"{sys.executable} -m pip install {' '.join(wheels)}"
        print(f"these are missing: {install}", file=sys.stderr)
    if packages or wheels:
        sys.exit(2)


@contextmanager
def directory(name: str) -> Iterator[Path]:
    """A directory for the run, in an environment without proxies and with quiet daemons."""
    for variable in [variable for variable in os.environ if variable.lower().endswith("_proxy")]:
        del os.environ[variable]
    os.environ["HAWKER_TELEMETRY__LOG_LEVEL"] = "error"
    root = Path(tempfile.mkdtemp(prefix=f"hawker-{name}-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
