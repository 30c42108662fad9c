"""Removes a bed when its owner is done with it, or is no more.

    python -m benchmarks.swarm.janitor PREFIX DIRECTORY

Waits for the end of its input, which comes with the owner's death, too. Then ends every process in
namespaces with the prefix, deletes those namespaces and the directory. Everything of a bed lives
in its namespaces, so that nothing else is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys

PREFIX = "hawker-bed-"


def ip(*arguments: str) -> str:
    """What `ip` prints; nothing where it fails, which it does for what is gone."""
    found = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    return found.stdout


def namespaces(prefix: str) -> list[str]:
    lines = (line.split() for line in ip("netns", "list").splitlines())
    return [words[0] for words in lines if words and words[0].startswith(prefix)]


def remove(prefix: str) -> None:
    """End and delete all that is in namespaces with this prefix."""
    found = namespaces(prefix)
    for name in found:
        for pid in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for name in found:
        ip("netns", "delete", name)


def remove_orphans() -> None:
    """What owners left whose janitors were killed, too."""
    for name in namespaces(PREFIX):
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
            remove(f"{PREFIX}{owner}-")


def main() -> None:
    prefix, directory = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    remove(prefix)
    shutil.rmtree(directory, ignore_errors=True)
    if left := namespaces(prefix):
        sys.exit(f"janitor: could not delete {', '.join(left)}")


if __name__ == "__main__":
    main()
