"""Network driver vxlan."""
