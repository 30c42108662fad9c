"""A browser signs in to a manager with a provider of another site.

    python -m tests.outside.browser

Chromium, headless, is sent from a page of the provider (127.0.0.1) back to the manager (localhost,
to browsers another site), and on to `next`, which must know who signed in: of the session's cookie,
`SameSite=Strict`, only a browser knows when it goes along. Needs chromium. Exits with 1 where a
check fails, with 2 where the program is missing.
"""

from __future__ import annotations

import html
import subprocess
import sys
from contextlib import ExitStack
from email.message import Message
from pathlib import Path

from tests.apps.manager.running import Manager
from tests.apps.manager.test_signing_in import Site
from tests.outside.beginning import demand, directory
from tests.outside.oidc_world import Checks
from tests.plugins.signing_in import SignInProvider

SECONDS = 60
NEXT = "/manager/api/v1/me"


class WithPages(SignInProvider):
    """Its sign-in page agrees by itself, as a form does that somebody sends."""

    def page(self, path: str, headers: Message) -> str | None:
        if not path.startswith("/realm/authorize?"):
            return None
        back = html.escape(self.agree(self.issuer.removesuffix("/realm") + path))
        return f'<meta http-equiv="refresh" content="0; url={back}">'


def browse(url: str, profile: Path) -> str:
    """What is on the page that this leads to in the end."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return html.unescape(ran.stdout)


def main() -> None:
    demand({"chromium": "chromium"})
    checks = Checks()
    with directory("browser") as root, ExitStack() as stack:
        manager = Manager(root / "manager")
        stack.callback(manager.close)
        provider = WithPages()
        stack.callback(provider.close)
        with manager.set_up() as first:
            manager.url = manager.url.replace("127.0.0.1", "localhost")
            site = Site(manager, first, provider)
        page = browse(f"{manager.url}{site.auth}/login?next={NEXT}", root / "profile")
        checks.same("the last page knows who signed in", '"subject":"somebody"' in page, True)
        checks.same("  by the session", '"via":"session"' in page, True)
        other = browse(f"{manager.url}{NEXT}", root / "other")
        checks.same("another browser does not", "unauthenticated" in other, True)
    print(f"{checks.failed} failed" if checks.failed else "all good")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
