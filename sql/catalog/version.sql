-- The format of this catalog.
SELECT max(version) FROM store_format;
