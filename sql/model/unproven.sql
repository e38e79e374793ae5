-- Of some fingerprints, those that have vectors and no probe: vectors that an older clipstore made.
SELECT DISTINCT fingerprint
FROM vectors
ANTI JOIN probes USING (fingerprint)
WHERE fingerprint IN (SELECT unnest($fingerprints::VARCHAR[]));
