-- A few of the texts that a fingerprint has vectors of, from every shard, with where those lie. Texts that write
-- out a special token come first: an older clipstore read them as that token.
WITH texts AS (
    SELECT DISTINCT model_text(text, $prompt, $clean) AS source FROM captions
)
SELECT vectors.content, texts.source, shards.file, vectors.row
FROM vectors
JOIN shards USING (shard_id)
JOIN texts ON sha256(texts.source) = vectors.content
WHERE vectors.fingerprint = $fingerprint
QUALIFY row_number() OVER (
    PARTITION BY vectors.shard_id ORDER BY contains(texts.source, '<|') DESC, sha256(vectors.content)
) <= $count
ORDER BY shards.file, vectors.row;
