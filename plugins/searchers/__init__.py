"""Searchers: which cluster a host belongs to."""
