"""Suites that show whether a plugin keeps its contract; needs pytest, which nothing else does."""

import pytest

for _suite in ("authenticators", "searchers", "sources"):
    pytest.register_assert_rewrite(f"hawker.core.testing.{_suite}")
