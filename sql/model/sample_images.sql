-- A few of the images that a fingerprint has vectors or features of, from every shard, with where those lie.
SELECT vectors.content, images.path AS source, shards.file, vectors.row
FROM vectors
JOIN shards USING (shard_id)
JOIN (SELECT content, min(path) AS path FROM images GROUP BY content) AS images ON images.content = vectors.content
WHERE vectors.fingerprint = $fingerprint
QUALIFY row_number() OVER (PARTITION BY vectors.shard_id ORDER BY sha256(vectors.content)) <= $count
ORDER BY shards.file, vectors.row;
