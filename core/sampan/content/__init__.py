"""Blobs, manifests and layers.

What comes in: `archive` (docker load), `importer` (docker import). What lies on disk: `blobs`. What it means:
`manifests`, `references`. How a layer becomes a directory: `layers` starts `unpacker` in a confined child,
which reads with `tarstream` and `compression`.
"""
