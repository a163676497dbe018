"""The tests' own ground: engines with a root, socket, bridge, subnet and network namespace of their own."""
