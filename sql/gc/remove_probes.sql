-- The probes of fingerprints that no model has and of which there are no vectors.
DELETE FROM probes
WHERE fingerprint NOT IN (SELECT fingerprint FROM shards)
    AND fingerprint NOT IN (
        SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);
