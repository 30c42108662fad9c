"""The proxy role: a forward proxy whose rules say what comes out of the swarm."""
