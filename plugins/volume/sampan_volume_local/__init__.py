"""Volume driver local: directories under the engine's root."""
