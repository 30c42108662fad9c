"""What hypercorn's own leaves behind is collected before the next test."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collected(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if parameters.get("kind") == "stock":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
