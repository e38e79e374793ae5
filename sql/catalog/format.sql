-- The format of this catalog, and what made it.
FROM store_format;
