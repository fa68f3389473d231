-- Addresses that have signed in to the account, the last one first: up to 4 hashes of 32 bytes.
ALTER TABLE accounts ADD COLUMN known_addresses BLOB NOT NULL DEFAULT x'';

-- In `login_attempts`, `counted` is 1 for an address, 2 for an account from addresses that it does not
-- know, 3 for an account from one address.
