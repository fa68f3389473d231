-- The used token that may come again until then, as long as its successor was not used: 0 for none.
ALTER TABLE refresh_families ADD COLUMN repeatable bigint NOT NULL DEFAULT 0;
ALTER TABLE refresh_families ADD COLUMN repeatable_until bigint NOT NULL DEFAULT 0;
