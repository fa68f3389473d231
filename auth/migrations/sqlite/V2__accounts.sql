CREATE TABLE accounts (
    user_id         BLOB PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    username        TEXT NOT NULL,
    username_folded TEXT NOT NULL UNIQUE,
    email           TEXT UNIQUE,
    password_hash   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A family is one sign-in: the tokens that followed from one another. The one with the number
-- `latest` is in force, those below it are used.
CREATE TABLE refresh_families (
    id         INTEGER PRIMARY KEY,
    user_id    BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    latest     INTEGER NOT NULL,
    revoked    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX refresh_families_of_user ON refresh_families (user_id);
CREATE INDEX refresh_families_expiring ON refresh_families (expires_at);

CREATE TABLE refresh_tokens (
    hash       BLOB PRIMARY KEY CHECK (length(hash) = 32),
    family_id  INTEGER NOT NULL REFERENCES refresh_families (id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (family_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_expiring ON refresh_tokens (expires_at);

-- `counted` is 1 for an address, 2 for an account.
CREATE TABLE login_attempts (
    counted       INTEGER NOT NULL,
    key           BLOB NOT NULL CHECK (length(key) = 32),
    failures      INTEGER NOT NULL,
    blocked_until INTEGER NOT NULL,
    forget_at     INTEGER NOT NULL,
    PRIMARY KEY (counted, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX login_attempts_forgotten ON login_attempts (counted, forget_at);

-- The newest key with a time is the current one, the one before it the previous; one without a time
-- is the next.
ALTER TABLE signing_keys ADD COLUMN current_since INTEGER;
UPDATE signing_keys SET current_since = created_at
WHERE place = (SELECT min(place) FROM signing_keys);

-- Programs from before version 2 look at this, and refuse the file.
PRAGMA user_version = 2;
