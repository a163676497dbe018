"""Metadata: what the engine must remember, in one sqlite file, and its migrations.

`database` holds the connections, `tables` the documents of the engine (containers, images, networks,
endpoints, volumes), and `tags`, `blobs`, `snapshots`, `settings` one small ledger each.
"""
