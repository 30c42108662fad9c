"""Hawker: files, container images and models, distributed to many machines at once."""
