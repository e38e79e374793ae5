-- The consistency of the catalog: `clipstore verify` runs every statement. Each returns one row: the table, the problem, the
-- number of rows that have it, and an example.

-- name: captions_images
-- Captions whose image_id is not in images.
SELECT 'captions' AS "table", 'image_id is not in images' AS problem, count(*) AS rows, min(captions.image_id)::VARCHAR AS example
FROM captions
ANTI JOIN images AS target ON target.image_id = captions.image_id;

-- name: categories_datasets
-- Categories whose dataset_id is not in datasets.
SELECT 'categories' AS "table", 'dataset_id is not in datasets' AS problem, count(*) AS rows, min(categories.dataset_id)::VARCHAR AS example
FROM categories
ANTI JOIN datasets AS target ON target.dataset_id = categories.dataset_id;

-- name: class_hits_classifications
-- Class_hits whose classification_id is not in classifications.
SELECT 'class_hits' AS "table", 'classification_id is not in classifications' AS problem, count(*) AS rows, min(class_hits.classification_id)::VARCHAR AS example
FROM class_hits
ANTI JOIN classifications AS target ON target.classification_id = class_hits.classification_id;

-- name: class_ranks_categories
-- Class_ranks whose category_id is not in categories.
SELECT 'class_ranks' AS "table", 'category_id is not in categories' AS problem, count(*) AS rows, min(class_ranks.category_id)::VARCHAR AS example
FROM class_ranks
ANTI JOIN categories AS target ON target.category_id = class_ranks.category_id;

-- name: class_ranks_classifications
-- Class_ranks whose classification_id is not in classifications.
SELECT 'class_ranks' AS "table", 'classification_id is not in classifications' AS problem, count(*) AS rows, min(class_ranks.classification_id)::VARCHAR AS example
FROM class_ranks
ANTI JOIN classifications AS target ON target.classification_id = class_ranks.classification_id;

-- name: class_scores_classifications
-- Class_scores whose classification_id is not in classifications.
SELECT 'class_scores' AS "table", 'classification_id is not in classifications' AS problem, count(*) AS rows, min(class_scores.classification_id)::VARCHAR AS example
FROM class_scores
ANTI JOIN classifications AS target ON target.classification_id = class_scores.classification_id;

-- name: classifications_models
-- Classifications whose model_id is not in models.
SELECT 'classifications' AS "table", 'model_id is not in models' AS problem, count(*) AS rows, min(classifications.model_id)::VARCHAR AS example
FROM classifications
ANTI JOIN models AS target ON target.model_id = classifications.model_id;

-- name: classifications_splits
-- Classifications whose split_id is not in splits.
SELECT 'classifications' AS "table", 'split_id is not in splits' AS problem, count(*) AS rows, min(classifications.split_id)::VARCHAR AS example
FROM classifications
ANTI JOIN splits AS target ON target.split_id = classifications.split_id;

-- name: evaluations_counts
-- Evaluations of unchanged splits whose images are not those of the split.
SELECT 'evaluations' AS "table", 'their images are not as many as those of the split' AS problem, count(*) AS rows, min(evaluation_id)::VARCHAR AS example
FROM evaluations
JOIN (SELECT split_id, count(*) AS size FROM split_images GROUP BY split_id) AS sizes USING (split_id)
WHERE split_digest = split_digest_of(split_id) AND images + left_out_images + pending_images != size;

-- name: evaluations_models
-- Evaluations whose model_id is not in models.
SELECT 'evaluations' AS "table", 'model_id is not in models' AS problem, count(*) AS rows, min(evaluations.model_id)::VARCHAR AS example
FROM evaluations
ANTI JOIN models AS target ON target.model_id = evaluations.model_id;

-- name: extra_positives_captions
-- Extra_positives whose caption_id is not in captions.
SELECT 'extra_positives' AS "table", 'caption_id is not in captions' AS problem, count(*) AS rows, min(extra_positives.caption_id)::VARCHAR AS example
FROM extra_positives
ANTI JOIN captions AS target ON target.caption_id = extra_positives.caption_id;

-- name: extra_positives_images
-- Extra_positives whose image_id is not in images.
SELECT 'extra_positives' AS "table", 'image_id is not in images' AS problem, count(*) AS rows, min(extra_positives.image_id)::VARCHAR AS example
FROM extra_positives
ANTI JOIN images AS target ON target.image_id = extra_positives.image_id;

-- name: hard_pairs_images
-- Hard_pairs whose image_id is not in images.
SELECT 'hard_pairs' AS "table", 'image_id is not in images' AS problem, count(*) AS rows, min(hard_pairs.image_id)::VARCHAR AS example
FROM hard_pairs
ANTI JOIN images AS target ON target.image_id = hard_pairs.image_id;

-- name: hard_pairs_negatives
-- Hard_pairs whose negative_id is not a caption of the image.
SELECT 'hard_pairs' AS "table", 'negative_id is not a caption of the image' AS problem, count(*) AS rows, min(hard_pairs.negative_id)::VARCHAR AS example
FROM hard_pairs
ANTI JOIN captions AS target ON target.caption_id = hard_pairs.negative_id AND target.image_id = hard_pairs.image_id;

-- name: hard_pairs_positives
-- Hard_pairs whose positive_id is not a caption of the image.
SELECT 'hard_pairs' AS "table", 'positive_id is not a caption of the image' AS problem, count(*) AS rows, min(hard_pairs.positive_id)::VARCHAR AS example
FROM hard_pairs
ANTI JOIN captions AS target ON target.caption_id = hard_pairs.positive_id AND target.image_id = hard_pairs.image_id;

-- name: hard_scores_evaluations
-- Hard_scores whose evaluation_id is not in evaluations.
SELECT 'hard_scores' AS "table", 'evaluation_id is not in evaluations' AS problem, count(*) AS rows, min(hard_scores.evaluation_id)::VARCHAR AS example
FROM hard_scores
ANTI JOIN evaluations AS target ON target.evaluation_id = hard_scores.evaluation_id;

-- name: hits_evaluations
-- Hits whose evaluation_id is not in evaluations.
SELECT 'hits' AS "table", 'evaluation_id is not in evaluations' AS problem, count(*) AS rows, min(hits.evaluation_id)::VARCHAR AS example
FROM hits
ANTI JOIN evaluations AS target ON target.evaluation_id = hits.evaluation_id;

-- name: image_categories_categories
-- Image_categories whose category_id is not in categories.
SELECT 'image_categories' AS "table", 'category_id is not in categories' AS problem, count(*) AS rows, min(image_categories.category_id)::VARCHAR AS example
FROM image_categories
ANTI JOIN categories AS target ON target.category_id = image_categories.category_id;

-- name: image_categories_images
-- Image_categories whose image_id is not in images.
SELECT 'image_categories' AS "table", 'image_id is not in images' AS problem, count(*) AS rows, min(image_categories.image_id)::VARCHAR AS example
FROM image_categories
ANTI JOIN images AS target ON target.image_id = image_categories.image_id;

-- name: images_datasets
-- Images whose dataset_id is not in datasets.
SELECT 'images' AS "table", 'dataset_id is not in datasets' AS problem, count(*) AS rows, min(images.dataset_id)::VARCHAR AS example
FROM images
ANTI JOIN datasets AS target ON target.dataset_id = images.dataset_id;

-- name: ranks_evaluations
-- Ranks whose evaluation_id is not in evaluations.
SELECT 'ranks' AS "table", 'evaluation_id is not in evaluations' AS problem, count(*) AS rows, min(ranks.evaluation_id)::VARCHAR AS example
FROM ranks
ANTI JOIN evaluations AS target ON target.evaluation_id = ranks.evaluation_id;

-- name: seen_images_evaluations
-- Seen_images whose evaluation_id is not in evaluations.
SELECT 'seen_images' AS "table", 'evaluation_id is not in evaluations' AS problem, count(*) AS rows, min(seen_images.evaluation_id)::VARCHAR AS example
FROM seen_images
ANTI JOIN evaluations AS target ON target.evaluation_id = seen_images.evaluation_id;

-- name: shard_checksums_shards
-- Shard_checksums whose shard_id is not in shards.
SELECT 'shard_checksums' AS "table", 'shard_id is not in shards' AS problem, count(*) AS rows, min(shard_checksums.shard_id)::VARCHAR AS example
FROM shard_checksums
ANTI JOIN shards AS target ON target.shard_id = shard_checksums.shard_id;

-- name: split_images_images
-- Split_images whose image_id is not in images.
SELECT 'split_images' AS "table", 'image_id is not in images' AS problem, count(*) AS rows, min(split_images.image_id)::VARCHAR AS example
FROM split_images
ANTI JOIN images AS target ON target.image_id = split_images.image_id;

-- name: split_images_splits
-- Split_images whose split_id is not in splits.
SELECT 'split_images' AS "table", 'split_id is not in splits' AS problem, count(*) AS rows, min(split_images.split_id)::VARCHAR AS example
FROM split_images
ANTI JOIN splits AS target ON target.split_id = split_images.split_id;

-- name: splits_datasets
-- Splits whose dataset_id is not in datasets.
SELECT 'splits' AS "table", 'dataset_id is not in datasets' AS problem, count(*) AS rows, min(splits.dataset_id)::VARCHAR AS example
FROM splits
ANTI JOIN datasets AS target ON target.dataset_id = splits.dataset_id;

-- name: splits_origins
-- Splits whose origin_id is not in splits.
SELECT 'splits' AS "table", 'origin_id is not in splits' AS problem, count(*) AS rows, min(splits.origin_id)::VARCHAR AS example
FROM splits
ANTI JOIN splits AS target ON target.split_id = splits.origin_id
WHERE splits.origin_id IS NOT NULL;

-- name: store_format_rows
-- The format of the store is one row.
SELECT 'store_format' AS "table", 'it does not have one row' AS problem, abs(count(*) - 1)::BIGINT AS rows, max(version)::VARCHAR AS example
FROM store_format;

-- name: towers_models
-- Towers whose model_id is not in models.
SELECT 'towers' AS "table", 'model_id is not in models' AS problem, count(*) AS rows, min(towers.model_id)::VARCHAR AS example
FROM towers
ANTI JOIN models AS target ON target.model_id = towers.model_id;

-- name: training_contents_models
-- Training_contents whose model_id is not in models.
SELECT 'training_contents' AS "table", 'model_id is not in models' AS problem, count(*) AS rows, min(training_contents.model_id)::VARCHAR AS example
FROM training_contents
ANTI JOIN models AS target ON target.model_id = training_contents.model_id;

-- name: training_images_models
-- Training_images whose model_id is not in models.
SELECT 'training_images' AS "table", 'model_id is not in models' AS problem, count(*) AS rows, min(training_images.model_id)::VARCHAR AS example
FROM training_images
ANTI JOIN models AS target ON target.model_id = training_images.model_id;

-- name: unique_captions_caption_id
-- Captions with an equal caption_id.
SELECT 'captions' AS "table", 'another row has the same caption_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(caption_id)::VARCHAR AS example
    FROM captions
    GROUP BY hash(caption_id)
    HAVING count(*) > 1
);

-- name: unique_class_hits
-- Class_hits with an equal classification_id, image_id, position.
SELECT 'class_hits' AS "table", 'another row has the same classification_id, image_id, position' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(image_id)::VARCHAR AS example
    FROM class_hits
    GROUP BY classification_id, image_id, position
    HAVING times > 1
);

-- name: unique_class_ranks
-- Class_ranks with an equal classification_id, image_id, category_id.
SELECT 'class_ranks' AS "table", 'another row has the same classification_id, image_id, category_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(image_id)::VARCHAR AS example
    FROM class_ranks
    GROUP BY classification_id, image_id, category_id
    HAVING times > 1
);

-- name: unique_classifications
-- Classifications with an equal classification_id.
SELECT 'classifications' AS "table", 'another row has the same classification_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(classification_id)::VARCHAR AS example
    FROM classifications
    GROUP BY classification_id
    HAVING times > 1
);

-- name: unique_datasets_dataset_id
-- Datasets with an equal dataset_id.
SELECT 'datasets' AS "table", 'another row has the same dataset_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(dataset_id)::VARCHAR AS example
    FROM datasets
    GROUP BY hash(dataset_id)
    HAVING count(*) > 1
);

-- name: unique_datasets_name
-- Datasets with an equal name.
SELECT 'datasets' AS "table", 'another row has the same name' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(name)::VARCHAR AS example
    FROM datasets
    GROUP BY hash(name)
    HAVING count(*) > 1
);

-- name: unique_evaluations_evaluation_id
-- Evaluations with an equal evaluation_id.
SELECT 'evaluations' AS "table", 'another row has the same evaluation_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(evaluation_id)::VARCHAR AS example
    FROM evaluations
    GROUP BY hash(evaluation_id)
    HAVING count(*) > 1
);

-- name: unique_hard_pairs
-- Hard_pairs with an equal positive_id or negative_id.
SELECT 'hard_pairs' AS "table", 'another row has the same caption' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(caption_id)::VARCHAR AS example
FROM (
    SELECT caption_id, count(*) AS times
    FROM (SELECT positive_id AS caption_id FROM hard_pairs UNION ALL SELECT negative_id FROM hard_pairs)
    GROUP BY caption_id
    HAVING count(*) > 1
);

-- name: unique_hard_scores
-- Hard_scores with an equal evaluation and positive_id.
SELECT 'hard_scores' AS "table", 'another row has the same evaluation_id and positive_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(positive_id)::VARCHAR AS example
FROM (
    SELECT evaluation_id, positive_id, count(*) AS times
    FROM hard_scores
    GROUP BY evaluation_id, positive_id
    HAVING count(*) > 1
);

-- name: unique_hits
-- Hits with an equal evaluation_id, direction, query_id, position.
SELECT 'hits' AS "table", 'another row has the same evaluation_id, direction, query_id, position' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(query_id)::VARCHAR AS example
    FROM hits
    GROUP BY hash(evaluation_id, direction, query_id, position)
    HAVING count(*) > 1
);

-- name: unique_images_file_name
-- Images with an equal dataset_id, file_name.
SELECT 'images' AS "table", 'another row has the same dataset_id, file_name' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(file_name)::VARCHAR AS example
    FROM images
    GROUP BY hash(dataset_id, file_name)
    HAVING count(*) > 1
);

-- name: unique_images_image_id
-- Images with an equal image_id.
SELECT 'images' AS "table", 'another row has the same image_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(image_id)::VARCHAR AS example
    FROM images
    GROUP BY hash(image_id)
    HAVING count(*) > 1
);

-- name: unique_models_model_id
-- Models with an equal model_id.
SELECT 'models' AS "table", 'another row has the same model_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(model_id)::VARCHAR AS example
    FROM models
    GROUP BY hash(model_id)
    HAVING count(*) > 1
);

-- name: unique_models_name
-- Models with an equal name.
SELECT 'models' AS "table", 'another row has the same name' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(name)::VARCHAR AS example
    FROM models
    GROUP BY hash(name)
    HAVING count(*) > 1
);

-- name: unique_ranks
-- Ranks with an equal evaluation_id, direction, query_id, positive_id.
SELECT 'ranks' AS "table", 'another row has the same evaluation_id, direction, query_id, positive_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(query_id)::VARCHAR AS example
    FROM ranks
    GROUP BY hash(evaluation_id, direction, query_id, positive_id)
    HAVING count(*) > 1
);

-- name: unique_shard_checksums_shard_id
-- Shard_checksums with an equal shard_id.
SELECT 'shard_checksums' AS "table", 'another row has the same shard_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(shard_id)::VARCHAR AS example
    FROM shard_checksums
    GROUP BY hash(shard_id)
    HAVING count(*) > 1
);

-- name: unique_shards_file
-- Shards with an equal file.
SELECT 'shards' AS "table", 'another row has the same file' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(file)::VARCHAR AS example
    FROM shards
    GROUP BY hash(file)
    HAVING count(*) > 1
);

-- name: unique_shards_shard_id
-- Shards with an equal shard_id.
SELECT 'shards' AS "table", 'another row has the same shard_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(shard_id)::VARCHAR AS example
    FROM shards
    GROUP BY hash(shard_id)
    HAVING count(*) > 1
);

-- name: unique_split_images_image
-- Split_images with an equal split_id, image_id.
SELECT 'split_images' AS "table", 'another row has the same split_id, image_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(image_id)::VARCHAR AS example
    FROM split_images
    GROUP BY hash(split_id, image_id)
    HAVING count(*) > 1
);

-- name: unique_split_images_position
-- Split_images with an equal split_id, position.
SELECT 'split_images' AS "table", 'another row has the same split_id, position' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(position)::VARCHAR AS example
    FROM split_images
    GROUP BY hash(split_id, position)
    HAVING count(*) > 1
);

-- name: unique_splits_name
-- Splits with an equal name.
SELECT 'splits' AS "table", 'another row has the same name' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(name)::VARCHAR AS example
    FROM splits
    GROUP BY hash(name)
    HAVING count(*) > 1
);

-- name: unique_splits_split_id
-- Splits with an equal split_id.
SELECT 'splits' AS "table", 'another row has the same split_id' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(split_id)::VARCHAR AS example
    FROM splits
    GROUP BY hash(split_id)
    HAVING count(*) > 1
);

-- name: unique_towers
-- Towers with an equal model_id, tower.
SELECT 'towers' AS "table", 'another row has the same model_id, tower' AS problem, coalesce(sum(times - 1), 0)::BIGINT AS rows, min(example) AS example
FROM (
    SELECT count(*) AS times, min(model_id)::VARCHAR AS example
    FROM towers
    GROUP BY hash(model_id, tower)
    HAVING count(*) > 1
);

-- name: unique_vectors
-- Vectors with an equal fingerprint, content. An example is looked up only if there is one, to group the keys alone.
WITH repeated AS (
    SELECT hash(fingerprint, content) AS key, count(*) AS times
    FROM vectors
    GROUP BY key
    HAVING times > 1
)
SELECT
    'vectors' AS "table",
    'another row has the same fingerprint, content' AS problem,
    coalesce(sum(times - 1), 0)::BIGINT AS rows,
    (SELECT min(content) FROM vectors WHERE hash(fingerprint, content) IN (SELECT key FROM repeated)) AS example
FROM repeated;

-- name: vectors_rows
-- Vectors beyond the rows of their shard, or of another fingerprint.
SELECT 'vectors' AS "table", 'their shard has no such row, or another fingerprint' AS problem, count(*) AS rows, min(content) AS example
FROM vectors
JOIN shards USING (shard_id)
WHERE vectors.row NOT BETWEEN 0 AND shards.items - 1 OR vectors.fingerprint != shards.fingerprint;

-- name: vectors_shards
-- Vectors whose shard_id is not in shards.
SELECT 'vectors' AS "table", 'shard_id is not in shards' AS problem, count(*) AS rows, min(vectors.shard_id)::VARCHAR AS example
FROM vectors
ANTI JOIN shards AS target ON target.shard_id = vectors.shard_id;
