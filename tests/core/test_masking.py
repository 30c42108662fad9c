"""What a line of a log must not hold, however it got into it."""

from __future__ import annotations

import pytest

from hawker.core.errors import NotFound
from hawker.core.masking import mask

LINES = [
    "GET https://h/x?X-Amz-Signature={} failed",
    "https://h/x?a=1&X-Amz-Security-Token={}&b=2",
    "https://h/x?X-Goog-Signature={}",
    "https://acct.blob/x?sv=2020&sig={}&se=1",
    "https://h/x?AWSAccessKeyId={}&Expires=1",
    "https://h/x?access_token={}",
    "https://h/x?token={}",
    "https://h/x?password={}#f",
    "https://user:{}@h/x",
    "https://{}@h/x",
    "Authorization: Bearer {}",
    "Authorization: Basic {}",
    "'authorization': 'Bearer {}'",
    "(b'proxy-authorization', b'Basic {}')",
    "Cookie: session={}; other={}",
    "set-cookie={}",
    "sent Bearer {} to h",
]


@pytest.mark.parametrize("line", LINES)
def test_credentials_are_masked(line: str) -> None:
    # Only what may stand in that place of a URL or a field.
    secret = "s3cr3t~value" if "http" in line else "s3cr3t~+/=value"
    assert "s3cr3t" not in mask(line.replace("{}", secret))


@pytest.mark.parametrize(
    "line",
    [
        "http://host:8080/path/file?version=2&part=7",
        "no peer has http://h/monkey?key2=1",
        "user@example.com asked for https://h/x",
        "a basic error of the bearer",
        "task 0123456789ab: 3 tokens left",
    ],
)
def test_what_is_no_credential_stays(line: str) -> None:
    assert mask(line) == line


def test_the_rest_of_a_line_stays() -> None:
    masked = mask("GET https://u:p@h/x?a=1&sig=zzz&b=2 failed: 403")
    assert masked == "GET https://***@h/x?a=1&sig=***&b=2 failed: 403"


def test_no_error_holds_a_credential() -> None:
    error = NotFound("no https://u:p@h/x?token=t", hint="try https://u:p@h/y")
    for text in (str(error), repr(error), str(error.problem())):
        assert "u:p" not in text and "token=t" not in text
