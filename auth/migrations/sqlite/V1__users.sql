CREATE TABLE users (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    display_name TEXT NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE guests (
    secret_hash BLOB PRIMARY KEY CHECK (length(secret_hash) = 32),
    user_id     BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX guests_of_user ON guests (user_id);

CREATE TABLE signing_keys (
    place      INTEGER PRIMARY KEY,
    key_id     TEXT NOT NULL UNIQUE,
    seed       BLOB NOT NULL CHECK (length(seed) = 32),
    created_at INTEGER NOT NULL
) STRICT;
