"""Sources: where bytes come from when no peer has them."""
