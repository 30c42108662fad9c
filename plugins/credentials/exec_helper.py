"""`exec`: credentials from a helper program.

The program gets `{"origin": "https://host:443", "tenant": "default"}` on its standard input and
prints the credential's fields as a JSON object, and `expires_in`, seconds for which they hold; `{}`
where it has nothing for that origin. For another tenant than the default one it repeats the
`tenant`: an answer without it is of a program that looks at the origin alone, and counts for
nothing. Its standard error is thrown away, as it may show secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from hawker.core.contracts import Credential, Credentials
from hawker.core.errors import ConfigError, OriginRefused
from hawker.core.ids import DEFAULT_TENANT
from hawker.core.settings import Settings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.credentials.origins import known_options, origin_of, read_credential

TIMEOUT = 10.0
MAX_OUTPUT = 64 * 1024
# How long an answer holds that does not say, in seconds, and how many origins are remembered.
HOLDS = 60.0
MAX_REMEMBERED = 1024


class _Known(msgspec.Struct):
    """What the helper said of one origin and tenant; asked one at a time."""

    lock: asyncio.Lock
    credential: Credential | None = None
    until: float = 0.0


class ExecCredentials:
    """Runs a program for each origin and tenant, and keeps what it says while it holds."""

    def __init__(self, command: Sequence[str], timeout: float = TIMEOUT) -> None:
        self._command = command
        self._timeout = timeout
        self._known: dict[tuple[str, str], _Known] = {}

    async def find(self, url: str, tenant: str) -> Credential | None:
        if not self._command:
            raise OriginRefused(
                "no credentials helper is named", hint="set plugins.options.exec.command"
            )
        asked = origin_of(url), tenant
        known = self._known.get(asked)
        if known is None:
            self._forget()
            known = self._known[asked] = _Known(asyncio.Lock())
        async with known.lock:
            if time.monotonic() >= known.until:
                since = time.monotonic()
                output = await self._run(*asked)
                known.credential, holds = _answer(output, self._command[0], tenant)
                known.until = since + holds
            return known.credential

    async def close(self) -> None:
        self._known.clear()

    def _forget(self) -> None:
        """Make room: what is over first, then the oldest."""
        if len(self._known) < MAX_REMEMBERED:
            return
        now = time.monotonic()
        free = [asked for asked, known in self._known.items() if not known.lock.locked()]
        over = [asked for asked in free if self._known[asked].until <= now]
        for asked in over or free[:1]:
            del self._known[asked]

    async def _run(self, origin: str, tenant: str) -> bytes:
        program = self._command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                # A group of its own, to be ended with whatever it starts.
                start_new_session=True,
            )
        except OSError as exc:
            raise OriginRefused(
                f"the credentials helper {program} cannot be run: {exc.strerror}"
            ) from exc
        finished = False
        try:
            async with asyncio.timeout(self._timeout):
                question = msgspec.json.encode({"origin": origin, "tenant": tenant})
                output = await _talk(process, question)
                status = await process.wait()
            finished = True
        except TimeoutError:
            raise OriginRefused(
                f"the credentials helper {program} did not answer in {self._timeout:g} s"
            ) from None
        finally:
            if not finished:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if status != 0:
            raise OriginRefused(
                f"the credentials helper {program} failed with status {status}",
                hint="run it by hand: it gets a JSON object on its standard input",
            )
        return output


async def _talk(process: asyncio.subprocess.Process, question: bytes) -> bytes:
    """All the helper prints; raises OriginRefused where that is too much."""
    assert process.stdin is not None and process.stdout is not None
    # A helper that does not read its input has no need of it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(question + b"\n")
        await process.stdin.drain()
    process.stdin.close()
    output = b""
    while chunk := await process.stdout.read(MAX_OUTPUT):
        output += chunk
        if len(output) > MAX_OUTPUT:
            raise OriginRefused(f"the credentials helper printed more than {MAX_OUTPUT} bytes")
    return output


def _answer(output: bytes, program: str, tenant: str) -> tuple[Credential | None, float]:
    """The credential, None where there is none for this tenant, and the seconds for which that
    holds."""
    where = f"what the credentials helper {program} printed"
    try:
        fields: Any = msgspec.json.decode(output)
    except msgspec.DecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise OriginRefused(f"{where} is no JSON object")
    holds = fields.pop("expires_in", HOLDS)
    if isinstance(holds, bool) or not isinstance(holds, (int, float)):
        raise OriginRefused(f"{where} has an expires_in that is no number of seconds")
    if not fields or fields.pop("tenant", DEFAULT_TENANT) != tenant:
        return None, holds
    try:
        return read_credential(fields, where), holds
    except ConfigError as exc:
        raise OriginRefused(exc.detail, hint=exc.hint) from None


@hookimpl
def hawker_credentials(name: str, settings: Settings) -> Credentials:
    options = known_options(settings.plugins.options.get(name, {}), name, ("command", "timeout"))
    # Without a command it is installed and not set up, which matters only where it is asked.
    command, timeout = options.get("command", []), options.get("timeout", TIMEOUT)
    words = isinstance(command, list) and all(isinstance(word, str) for word in command)
    if not words:
        raise ConfigError(
            f"plugins.options.{name}.command is no command", hint='write ["program", "argument"]'
        )
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0:
        raise ConfigError(f"plugins.options.{name}.timeout is no number of seconds")
    return ExecCredentials(command, float(timeout))
