"""The roles, their composition into one ASGI app, serving, and the command line."""
