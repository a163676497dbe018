"""The command line: a client of the HTTP API like any other."""
