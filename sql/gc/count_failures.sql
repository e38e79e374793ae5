-- Failed items of fingerprints that no model has.
SELECT count(*) AS failures
FROM item_failures
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);
