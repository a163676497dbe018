"""Sampan: the container engine you can take apart."""

__version__ = "0.1.0"
