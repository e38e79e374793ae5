-- The stored probe of a fingerprint.
SELECT device, software, vector FROM probes WHERE fingerprint = $fingerprint;
