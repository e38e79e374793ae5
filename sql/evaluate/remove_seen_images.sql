-- Forget which images of evaluations were seen.
DELETE FROM seen_images WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));
