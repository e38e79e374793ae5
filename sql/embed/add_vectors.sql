-- Register the rows of the staged shards.
INSERT INTO vectors
SELECT staged.fingerprint, staged.content, shards.shard_id, staged.row
FROM staged_vectors AS staged
JOIN shards USING (file)
ANTI JOIN vectors ON vectors.fingerprint = staged.fingerprint AND vectors.content = staged.content;
