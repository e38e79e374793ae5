-- Failures that a later try has settled, one way or the other.
DELETE FROM item_failures
WHERE (fingerprint, content) IN (
    SELECT (fingerprint, content) FROM staged_vectors
    UNION ALL
    SELECT (fingerprint, content) FROM staged_failures);
