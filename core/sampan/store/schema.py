"""The schema as forward migrations: script N brings a database from version N to version N + 1.

A released script never changes; a new one is added. Rules for all tables: a row's `doc` is the whole record
as JSON, other columns repeat only what is searched for or kept unique. Foreign keys are checked at the end of
a transaction, so that the order of changes inside one does not matter.
"""

from __future__ import annotations

APPLICATION_ID = 0x53504E31
"""`SPN1`, in the file's header: tells our file from another program's (sqlite.org/fileformat2, offset 68)."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, doc TEXT NOT NULL) STRICT;

    CREATE TABLE images (id TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;
    CREATE TABLE tags (
        reference TEXT PRIMARY KEY,
        image_id TEXT NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED
    ) STRICT;
    CREATE INDEX tags_image ON tags (image_id);
    CREATE TABLE blobs (
        image_id TEXT NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (image_id, digest)
    ) STRICT;
    CREATE INDEX blobs_digest ON blobs (digest);

    CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, doc TEXT NOT NULL) STRICT;
    CREATE TABLE endpoints (
        id TEXT PRIMARY KEY,
        network_id TEXT NOT NULL REFERENCES networks (id) DEFERRABLE INITIALLY DEFERRED,
        container_id TEXT NOT NULL REFERENCES containers (id) DEFERRABLE INITIALLY DEFERRED,
        doc TEXT NOT NULL
    ) STRICT;
    CREATE INDEX endpoints_network ON endpoints (network_id);
    CREATE INDEX endpoints_container ON endpoints (container_id);

    CREATE TABLE volumes (name TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;

    CREATE TABLE snapshots (
        driver TEXT NOT NULL,
        key TEXT NOT NULL,
        owner_kind TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        PRIMARY KEY (driver, key, owner_kind, owner_id)
    ) STRICT;
    CREATE INDEX snapshots_owner ON snapshots (owner_kind, owner_id);

    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
    # A container's networks were those of its network mode; now they are told, by name.
    """
    UPDATE containers SET doc = json_set(doc, '$.networks', json_object(
        CASE WHEN json_extract(doc, '$.host.network_mode') IN ('', 'default') THEN 'bridge'
             ELSE json_extract(doc, '$.host.network_mode') END,
        json(coalesce((SELECT value FROM json_each(containers.doc, '$.networks') LIMIT 1), '{}'))
    ))
    WHERE json_extract(doc, '$.host.network_mode') NOT LIKE 'container:%';
    """,
)
