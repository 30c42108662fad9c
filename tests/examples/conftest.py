"""The origin and the cluster of the end-to-end tests."""

from tests.e2e.conftest import cluster, origin

__all__ = ["cluster", "origin"]
