"""Storage driver overlayfs: layers stacked by the kernel."""
