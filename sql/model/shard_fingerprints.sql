-- The fingerprints that the store has shards of.
SELECT DISTINCT fingerprint FROM shards;
