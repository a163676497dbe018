"""Network driver macvlan."""
