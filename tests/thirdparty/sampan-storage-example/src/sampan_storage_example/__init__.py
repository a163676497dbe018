"""A storage driver for Sampan that lets cp(1) do the work."""
