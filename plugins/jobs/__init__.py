"""Brokers that tell managers which parts of jobs may be begun."""
