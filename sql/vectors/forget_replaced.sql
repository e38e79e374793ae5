-- Make room for new vectors of the same items.
DELETE FROM vectors WHERE (fingerprint, content) IN (SELECT (fingerprint, content) FROM replaced);
