CREATE TABLE users (
    id           bytea PRIMARY KEY CHECK (octet_length(id) = 16),
    display_name text NOT NULL,
    created_at   bigint NOT NULL
);

CREATE TABLE guests (
    secret_hash bytea PRIMARY KEY CHECK (octet_length(secret_hash) = 32),
    user_id     bytea NOT NULL REFERENCES users (id) ON DELETE CASCADE
);

CREATE INDEX guests_of_user ON guests (user_id);

CREATE TABLE accounts (
    user_id         bytea PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    username        text NOT NULL,
    username_folded text NOT NULL UNIQUE,
    email           text UNIQUE,
    password_hash   text NOT NULL
);

-- A family is one sign-in: the tokens that followed from one another. The one with the number
-- `latest` is in force, those below it are used.
CREATE TABLE refresh_families (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    bytea NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    latest     bigint NOT NULL,
    revoked    boolean NOT NULL,
    expires_at bigint NOT NULL
);

CREATE INDEX refresh_families_of_user ON refresh_families (user_id);
CREATE INDEX refresh_families_expiring ON refresh_families (expires_at);

CREATE TABLE refresh_tokens (
    hash       bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    family_id  bigint NOT NULL REFERENCES refresh_families (id) ON DELETE CASCADE,
    number     bigint NOT NULL,
    expires_at bigint NOT NULL,
    UNIQUE (family_id, number)
);

CREATE INDEX refresh_tokens_expiring ON refresh_tokens (expires_at);

-- `counted` is 1 for an address, 2 for an account.
CREATE TABLE login_attempts (
    counted       smallint NOT NULL,
    key           bytea NOT NULL CHECK (octet_length(key) = 32),
    failures      bigint NOT NULL,
    blocked_until bigint NOT NULL,
    forget_at     bigint NOT NULL,
    PRIMARY KEY (counted, key)
);

CREATE INDEX login_attempts_forgotten ON login_attempts (counted, forget_at);

-- The newest key with a time is the current one, the one before it the previous; one without a time
-- is the next.
CREATE TABLE signing_keys (
    place         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id        text NOT NULL UNIQUE,
    seed          bytea NOT NULL CHECK (octet_length(seed) = 32),
    created_at    bigint NOT NULL,
    current_since bigint
);
