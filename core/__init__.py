"""The domain: values and contracts, scheduling, transfer, storage, clients. No web framework."""
