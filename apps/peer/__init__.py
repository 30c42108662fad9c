"""The peer role: downloads, stores and serves; as a seed it reads origins for the cluster."""
