"""The page that shows the manager's API, in a browser.

    python -m tests.outside.docs_page [--screenshot FILE]

A real manager, mounted where `hawker serve` mounts it, and headless Chromium for which every other
address is unknown. Signs in on the page, looks whether every operation of openapi.json is there,
makes a cluster and reads it with the session's cookie, then does it with a token. Nothing is loaded
from elsewhere, the policy lets no other script run, and the browser has nothing to complain of.
Exits with 1 where something of that is not so, with 2 where Chromium (Debian: apt-get install
chromium chromium-driver) or selenium is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.apps.manager.running import API, PASSWORD, Manager, add_token
from tests.outside.beginning import demand, directory

SECONDS = 20
INLINE = """
const script = document.createElement("script");
try { script.textContent = "window.ran = true"; document.body.append(script); } catch {}
return window.ran === true;
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--screenshot", type=Path, help="write what the page looks like here")
    arguments = parser.parse_args()
    demand({"chromium": "chromium", "chromedriver": "chromium-driver"}, "selenium")
    with directory("docs-page") as root:
        manager = Manager(root / "data", database="")
        browser = _browser(root)
        try:
            _check(manager, browser, arguments.screenshot)
            manager.check()
        finally:
            browser.quit()
            manager.close()
    print("the page shows every operation, and they can be tried")
    return 0


def _browser(root: Path) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "no-proxy-server",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "window-size=1100,1600",
        f"user-data-dir={root / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    return webdriver.Chrome(options=options, service=service)


class Page:
    """What a person does on it."""

    def __init__(self, browser: Any) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        self.browser = browser
        self._wait = WebDriverWait(browser, SECONDS)

    def one(self, selector: str) -> Any:
        return self._wait.until(lambda browser: browser.find_element("css selector", selector))

    def until_text(self, selector: str, text: str) -> None:
        self._wait.until(lambda browser: text in self.one(selector).text)

    def fill(self, selector: str, text: str) -> None:
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def try_(self, operation: str, **fields: str) -> tuple[int, Any]:
        """Open an operation, fill in its fields (`body`, or parameters), send it; what came."""
        place = f"#{operation}"
        if self.one(place).get_attribute("open") is None:
            self.one(f"{place} > summary").click()
        for name, value in fields.items():
            self.fill(f"{place} textarea" if name == "body" else f"{place} [name={name}]", value)
        self.one(f"{place} .send").click()
        self.until_text(f"{place} .result", "content-type")
        told = self.one(f"{place} .answer").text
        return int(self.one(f"{place} .status").text), json.loads(told)


def _check(manager: Manager, browser: Any, screenshot: Path | None) -> None:
    with manager.set_up() as root:
        described = root.get("/openapi.json").json()
        token = add_token(root, "clusters:read")
    # The browser's own page loads its parts.
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(f"{manager.url}{API}/docs")
    page = Page(browser)
    page.until_text("#who", "nobody is signed in")
    listed = [
        (one.find_element("css selector", ".method").text.lower(),
         one.find_element("css selector", ".path").text)
        for one in browser.find_elements("css selector", ".operation")
    ]  # fmt: skip
    wanted = [(method, path) for path, methods in described["paths"].items() for method in methods]
    assert sorted(listed) == sorted(wanted), set(wanted) ^ set(listed)

    status, told = page.try_("get_clusters")
    assert (status, told["status"]) == (401, 401)
    page.fill("#sign-in [name=name]", "root")
    page.fill("#sign-in [name=password]", "wrong, and long enough")
    page.one("#sign-in button").click()
    page.until_text("#who", "the name or the password is wrong")
    page.fill("#sign-in [name=password]", PASSWORD)
    page.one("#sign-in button").click()
    page.until_text("#who", "root, by session")
    assert browser.get_cookie("hawker_session")["httpOnly"]

    body = json.dumps({"name": "<b>from-a-page</b>"})
    assert page.try_("post_clusters", body=body)[0] == 400
    status, made = page.try_("post_clusters", body=json.dumps({"name": "from-a-page"}))
    assert status == 201 and made["name"] == "from-a-page"
    status, read = page.try_("get_clusters_id_", id=made["id"])
    assert (status, read) == (200, made)
    change = {"id": made["id"], "If-Match": '"1"', "body": json.dumps({"description": "<i>x"})}
    status, changed = page.try_("patch_clusters_id_", **change)
    assert status == 200 and changed["description"] == "<i>x"
    if screenshot is not None:
        browser.save_screenshot(str(screenshot))
    page.one("#sign-out").click()
    page.until_text("#who", "nobody is signed in")

    page.fill("#token", token)
    page.one("#find").click()
    page.until_text("#who", "root, by token:")
    assert page.try_("get_clusters")[1] == [changed]
    page.fill("#find", "/audit/")
    shown = [one for one in browser.find_elements("css selector", ".operation") if
             one.is_displayed()]  # fmt: skip
    assert len(shown) == 1

    assert browser.execute_script(INLINE) is False
    _complaints(browser, manager.url)


def _complaints(browser: Any, origin: str) -> None:
    """Raise AssertionError where anything was asked of another server, or the browser complains
    of anything but the script that the policy kept from running and what was refused."""
    asked = [
        event["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (event := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(f"{origin}/") for url in asked), asked
    told = [entry["message"] for entry in browser.get_log("browser")]
    expected = ("TrustedScript", "Content Security Policy", "status of 400", "status of 401")
    others = [text for text in told if not any(part in text for part in expected)]
    assert not [text for text in others if "favicon" not in text], others
    assert len([text for text in told if "Security Policy" in text or "Trusted" in text]) <= 2, told


if __name__ == "__main__":
    sys.exit(main())
