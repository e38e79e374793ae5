-- How many of some fingerprints have no probe.
SELECT count(*) AS unchecked
FROM (SELECT unnest($fingerprints::VARCHAR[]) AS fingerprint)
ANTI JOIN probes USING (fingerprint);
