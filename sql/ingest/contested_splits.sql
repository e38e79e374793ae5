-- Splits of another source that the merge changed.
SELECT shared.name AS split, shared.source
FROM shared_splits AS shared
WHERE shared.digest IS DISTINCT FROM split_digest_of(shared.split_id)
ORDER BY shared.name;
