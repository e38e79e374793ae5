-- Statements of the protocol hard-negatives.

-- name: add_scores
-- The scores of an evaluation.
INSERT INTO hard_scores BY NAME SELECT * FROM staged_hard_scores;

-- name: delete_scores
-- Delete the scores of evaluations.
DELETE FROM hard_scores WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));

-- name: metrics
-- The metrics of one evaluation.
SELECT metric, value FROM hard_negative_metrics WHERE evaluation_id = $evaluation_id ORDER BY metric;

-- name: pairs
-- The pairs of a split, in the order of its images and captions.
SELECT hard_pairs.image_id, positive_id, negative_id
FROM split_images
JOIN hard_pairs USING (image_id)
JOIN captions ON caption_id = positive_id
WHERE split_id = $split_id
ORDER BY split_images.position, captions.position, positive_id;

-- name: present
-- A row if an image of a split has hard negatives.
SELECT image_id FROM split_images SEMI JOIN hard_pairs USING (image_id) WHERE split_id = $split_id LIMIT 1;

-- name: subset_sizes
-- The pairs and images of each subset of some splits, and those whose image file is missing.
SELECT
    splits.name AS split, subset, count(*) AS pairs, count(*) FILTER (WHERE problem IS NOT NULL) AS without_image_file,
    count(DISTINCT image_id) AS images, count(DISTINCT image_id) FILTER (WHERE problem IS NOT NULL) AS missing_images
FROM splits
JOIN split_images USING (split_id)
JOIN hard_pairs USING (image_id)
JOIN images USING (image_id)
WHERE splits.name IN (SELECT unnest($splits::VARCHAR[]))
GROUP BY splits.name, subset
ORDER BY splits.name, subset;

-- name: subsets
-- The accuracy of one evaluation on each subset.
SELECT subset, pairs, images, left_out, ties, accuracy
FROM hard_negative_accuracy
WHERE evaluation_id = $evaluation_id
ORDER BY subset;
