"""Transports: how pieces move between peers."""
