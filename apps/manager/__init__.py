"""The manager role: clusters, people, tokens and configuration behind one API."""
