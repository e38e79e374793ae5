-- Note the format of a catalog, and the digest of what made it.
INSERT INTO store_format VALUES ($version, $digest);
