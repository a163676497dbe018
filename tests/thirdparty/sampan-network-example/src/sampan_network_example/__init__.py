"""A network driver for Sampan whose networks are their containers alone."""
