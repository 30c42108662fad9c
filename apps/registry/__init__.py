"""The registry role: a pull-through mirror of OCI registries, its content out of the swarm."""
