"""Blobs, manifests and layers.

What comes in: `archive` (docker load), `importer` (docker import). What lies on disk: `blobs`. What it means:
`manifests`, `references`. How a layer becomes a directory: `layers` starts `unpacker` in a confined child,
which reads with `tarstream` and `compression`. How a directory becomes a layer: `layer_writer` starts `packer`,
which writes with `tarwriter`. What children and their parent say to each other: `confined`, `confinement`.
"""
