"""Runs the command line with a data directory that is a small filesystem of its own.

    python small_disk.py BYTES serve peer … --data DIR

The filesystem is a tmpfs in a mount namespace, so that no rights are needed where the kernel lets
users make namespaces, and nothing stays mounted when the process ends. Its errors are the kernel's.
Others reach it below /proc/PID/root; the unix socket is put beside the directory for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MOUNT = 'mount -t tmpfs -o size="$1",mode=700 hawker-test "$2" && shift 2 && exec "$@"'


def namespace() -> list[str] | None:
    """The command that makes a mount namespace here; None where there is none."""
    for flags in ("-m", "-Urm"):
        command = ["unshare", flags]
        try:
            subprocess.run([*command, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return None


def inside(size: int, directory: Path, *command: str) -> list[str]:
    """The command that mounts so many bytes over the directory, and becomes `command`."""
    made = namespace()
    assert made is not None
    return [*made, "sh", "-c", MOUNT, "sh", str(size), str(directory), *command]


def seen(pid: int, path: Path) -> Path:
    """A path as the process sees it."""
    return Path(f"/proc/{pid}/root{path}")


def mount(pid: int, *arguments: str) -> None:
    """mount(8) in the namespace of the process."""
    enter = ["nsenter", f"--target={pid}", "--mount"]
    if namespace() != ["unshare", "-m"]:
        enter += ["--user", "--preserve-credentials"]
    subprocess.run([*enter, "mount", *arguments], check=True)


def umount(pid: int, path: Path) -> None:
    """Take the topmost filesystem off the path, in the namespace of the process."""
    enter = ["nsenter", f"--target={pid}", "--mount"]
    if namespace() != ["unshare", "-m"]:
        enter += ["--user", "--preserve-credentials"]
    subprocess.run([*enter, "umount", str(path)], check=True)


def main() -> None:
    size, arguments = int(sys.argv[1]), sys.argv[2:]
    data = Path(arguments[arguments.index("--data") + 1])
    data.mkdir(exist_ok=True)
    os.environ["HAWKER_LISTEN__UNIX_SOCKET"] = f"{data}.sock"
    command = inside(size, data, sys.executable, "-m", "hawker", *arguments)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
