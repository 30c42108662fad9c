"""What other programs say they are."""

from __future__ import annotations

import subprocess


def first_line(*command: str) -> str:
    """The first line that a program prints; raises SystemExit where it fails."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{' '.join(command)}: {found.stderr.strip()}")
    return found.stdout.partition("\n")[0].strip()
