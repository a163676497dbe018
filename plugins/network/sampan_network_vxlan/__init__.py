"""Network driver vxlan: one network over several machines."""
