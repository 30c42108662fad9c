"""Content codings for pieces."""
