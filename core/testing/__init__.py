"""Suites that show whether a plugin keeps its contract; needs pytest, which nothing else does."""

import pytest

pytest.register_assert_rewrite("hawker.core.testing.sources")
