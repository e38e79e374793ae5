-- What a split holds, in one word (see split_digest_of), and how many images.
SELECT split_digest_of(splits.split_id) AS digest, (FROM split_images SELECT count(*) WHERE split_id = splits.split_id) AS images
FROM splits
WHERE split_id = $split_id;
