"""The Docker Engine API: server, router, streams, and one module per resource."""
