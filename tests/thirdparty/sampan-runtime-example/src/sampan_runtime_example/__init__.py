"""A runtime driver for Sampan whose containers outlive their shims."""
