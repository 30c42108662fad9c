"""Evaluators: which parent is best."""
