"""Blobs, manifests and layers."""
