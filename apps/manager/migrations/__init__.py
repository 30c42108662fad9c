"""How the tables came to be; each is applied once, in order, when a manager starts."""
