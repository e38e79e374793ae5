-- Note the format of a new catalog.
INSERT INTO store_format SELECT $version WHERE NOT EXISTS (FROM store_format);
