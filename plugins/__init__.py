"""Built-in plugins, on the same entry points and imports that a third party has."""
