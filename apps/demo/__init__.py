"""`hawker demo`: a whole cluster on this machine, and one file sent to all of it."""
