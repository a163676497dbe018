"""What the engine does: containers, processes, images, networks, volumes, events."""
