"""Network driver host: the host's own network."""
