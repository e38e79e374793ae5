-- Of some contents, those that the store has a vector of: where it lies.
SELECT asked_contents.content, shards.file, vectors.row
FROM asked_contents
JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = asked_contents.content
JOIN shards USING (shard_id)
ORDER BY shards.file, vectors.row;
