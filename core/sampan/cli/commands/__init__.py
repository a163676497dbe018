"""One module per kind of object; each is imported only when one of its commands runs."""
