-- Forget what made this catalog.
DELETE FROM store_format;
