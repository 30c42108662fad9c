"""Credentials: how Hawker signs in at origins."""
