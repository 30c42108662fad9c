"""Serving an ASGI app with hypercorn: the one package that knows the server."""

from hawker.apps.serve.listeners import Bound, Files, Listen
from hawker.apps.serve.server import serving

__all__ = ["Listen", "Files", "Bound", "serving"]
