"""What all roles share on the side of HTTP: lifespan, problems, events, access, health."""
