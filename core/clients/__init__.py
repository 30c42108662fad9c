"""Clients of other roles and of a local daemon."""
