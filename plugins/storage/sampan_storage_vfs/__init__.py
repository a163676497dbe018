"""Storage driver vfs: full copies; the reference implementation."""
