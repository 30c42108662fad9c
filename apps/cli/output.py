"""What the user wants a download to become, and whether it can; nothing is written here."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from hawker.core.errors import OutputFailed

STDOUT = "-"


class Output(msgspec.Struct, frozen=True):
    """The user's file and what may be done to bring it there."""

    path: Path
    overwrite: bool = False
    hard_link: bool = False

    def check(self) -> None:
        """Raises OutputFailed where writing would fail, before anything is fetched."""
        parent = self.path.parent
        if os.path.isdir(self.path):
            raise OutputFailed(f"{self.path} is a directory", hint="name a file with -O")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise OutputFailed(f"{self.path} is not a regular file", hint="-O - is standard output")
        if os.path.lexists(self.path) and not self.overwrite:
            raise OutputFailed(f"{self.path} exists already", hint="replace it with --overwrite")
        if not os.path.isdir(parent):
            raise OutputFailed(f"the directory {parent} does not exist")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputFailed(f"the directory {parent} cannot be written")


def default_name(url: str) -> str:
    """The last path segment of a URL.

    Raises:
        OutputFailed: it has none that can name a file.
    """
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise OutputFailed(f"{url} does not end in a file's name", hint="name the output with -O")
    return name
