"""Storage driver btrfs: snapshots as subvolumes."""
