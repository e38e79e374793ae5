-- The tables of a catalog. Ids are assigned by the catalog; a source_id is the id in the files of the dataset.

-- The format of the catalog, in one row.
CREATE TABLE IF NOT EXISTS store_format (
    version INTEGER NOT NULL,           -- number of the last migration (see migrations.sql)
    schema_digest VARCHAR,              -- SHA-256 of the statements that created tables, macros and views
    release VARCHAR                     -- release of clipstore that created or upgraded the catalog
);

-- Datasets.
CREATE TABLE IF NOT EXISTS datasets (
    dataset_id BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,              -- coco, flickr, karpathy, csv, folder, sugarcrepe, hard-negatives
    root VARCHAR NOT NULL,              -- folder of the last ingest
    cleaned BOOLEAN DEFAULT FALSE       -- whether captions were cleaned at ingest (--clean)
);

-- Images. `content` is the SHA-256 of the image file when it had the stored `size` and `modified_ns`.
CREATE TABLE IF NOT EXISTS images (
    image_id BIGINT NOT NULL,
    dataset_id BIGINT NOT NULL,
    source_id VARCHAR NOT NULL,
    file_name VARCHAR NOT NULL,         -- relative to the dataset's root, or absolute; unique in the dataset
    path VARCHAR NOT NULL,
    width INTEGER,
    height INTEGER,
    size BIGINT,                        -- bytes
    modified_ns BIGINT,                 -- modification time in nanoseconds
    content VARCHAR,                    -- null: the file has not been read yet
    problem VARCHAR                     -- why the image file cannot be read; null: readable, or not checked yet
);

-- Captions.
CREATE TABLE IF NOT EXISTS captions (
    caption_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    source_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL,              -- as in the source, or cleaned (datasets.cleaned)
    position INTEGER NOT NULL           -- from 0, within the image
);

-- Splits: ordered lists of images.
CREATE TABLE IF NOT EXISTS splits (
    split_id BIGINT NOT NULL,
    name VARCHAR NOT NULL,              -- group/split
    dataset_id BIGINT NOT NULL,
    source VARCHAR,                     -- annotation file or folder of the last ingest; null: a drawn split
    drawn_from VARCHAR,                 -- description of the draw by `clipstore split`; null: a split of the source
    origin_id BIGINT                    -- split_id of the split that it was drawn from
);

-- The images of each split.
CREATE TABLE IF NOT EXISTS split_images (
    split_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    position INTEGER NOT NULL           -- from 0, within the split
);

-- Categories of annotated objects.
CREATE TABLE IF NOT EXISTS categories (
    category_id BIGINT NOT NULL,
    dataset_id BIGINT NOT NULL,
    source_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    supercategory VARCHAR
);

-- The annotated objects of each image, by category.
CREATE TABLE IF NOT EXISTS image_categories (
    image_id BIGINT NOT NULL,
    category_id BIGINT NOT NULL,
    instances INTEGER NOT NULL          -- number of objects
);

-- Captions of an image, each with a hard negative: a caption that is wrong for the image in one detail. Both are rows of
-- captions, so that they are embedded; only the positive describes the image.
CREATE TABLE IF NOT EXISTS hard_pairs (
    image_id BIGINT NOT NULL,
    subset VARCHAR NOT NULL,            -- how the negatives were made, such as replace_obj
    positive_id BIGINT NOT NULL,        -- caption_id; in no other pair
    negative_id BIGINT NOT NULL         -- caption_id; in no other pair
);

-- Models.
CREATE TABLE IF NOT EXISTS models (
    model_id BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    family VARCHAR NOT NULL,            -- clip, openclip, siglip, blip; imported: vectors of another program
    base VARCHAR NOT NULL,              -- checkpoint: a hub name or a path
    adapter VARCHAR,                    -- folder of the LoRA adapter
    prompt VARCHAR,                     -- template for captions, with {} for the caption
    clean BOOLEAN NOT NULL,             -- whether captions are cleaned before tokenization
    origin VARCHAR NOT NULL,            -- job, added, imported
    exif_orientation BOOLEAN DEFAULT false -- whether images are rotated as their EXIF data states
);

-- The current fingerprint of each tower of each model.
CREATE TABLE IF NOT EXISTS towers (
    model_id BIGINT NOT NULL,
    tower VARCHAR NOT NULL,             -- image, text
    fingerprint VARCHAR NOT NULL,
    backbone VARCHAR,                   -- fingerprint of the tower without its projection head
    precision VARCHAR NOT NULL,
    dim INTEGER NOT NULL,               -- width of the vectors
    features_dim INTEGER NOT NULL,      -- width of the backbone's features
    files_key VARCHAR NOT NULL          -- sizes and modification times of the fingerprinted files
);

-- Registered shards.
CREATE TABLE IF NOT EXISTS shards (
    shard_id BIGINT NOT NULL,
    fingerprint VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,              -- vectors, features
    tower VARCHAR NOT NULL,
    file VARCHAR NOT NULL,              -- relative to the store
    items BIGINT NOT NULL,              -- rows of the shard
    failed BIGINT NOT NULL,             -- planned items without a row
    cut BIGINT NOT NULL,                -- texts that were truncated to the maximum length of the model
    dim INTEGER NOT NULL,
    dtype VARCHAR NOT NULL,             -- float32, float16
    bytes BIGINT NOT NULL,              -- size of the file
    checksum VARCHAR NOT NULL
);

-- Checksums of registered shards beside that of the format, to find damaged bytes. Shards that an earlier version
-- registered have none.
CREATE TABLE IF NOT EXISTS shard_checksums (
    shard_id BIGINT NOT NULL,
    file_checksum VARCHAR NOT NULL,     -- SHA-256 of the file
    row_checksums UINTEGER[] NOT NULL   -- CRC-32 of the bytes of each row
);

-- The shard and row of each item's vector, or features, by content key.
CREATE TABLE IF NOT EXISTS vectors (
    fingerprint VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    shard_id BIGINT NOT NULL,
    row INTEGER NOT NULL
);

-- The current fingerprint of the matching head of each model that has scored pairs.
CREATE TABLE IF NOT EXISTS matching_heads (
    model_id BIGINT NOT NULL,
    fingerprint VARCHAR NOT NULL,       -- of the matching head with all that it depends on
    precision VARCHAR NOT NULL,
    files_key VARCHAR NOT NULL          -- sizes and modification times of the fingerprinted files
);

-- Registered score shards: scores of a matching head for pairs of image and text, by content keys, which are in the file.
CREATE TABLE IF NOT EXISTS score_shards (
    fingerprint VARCHAR NOT NULL,       -- of the matching head
    file VARCHAR NOT NULL,              -- relative to the store
    pairs BIGINT NOT NULL,              -- scored pairs
    bytes BIGINT NOT NULL,              -- size of the file
    checksum VARCHAR NOT NULL,          -- SHA-256 of its content
    file_checksum VARCHAR NOT NULL      -- SHA-256 of the file
);

-- Items that could not be encoded.
CREATE TABLE IF NOT EXISTS item_failures (
    fingerprint VARCHAR NOT NULL,
    tower VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    reason VARCHAR NOT NULL
);

-- The accuracy of a tower's precision, measured on a sample that was also encoded in fp32.
CREATE TABLE IF NOT EXISTS precision_checks (
    fingerprint VARCHAR NOT NULL,
    items BIGINT NOT NULL,              -- size of the sample
    least_cosine DOUBLE NOT NULL        -- minimum cosine similarity of an item's two vectors
);

-- Evaluations: one row per model, split, protocol, caption set and choice of queries.
CREATE TABLE IF NOT EXISTS evaluations (
    evaluation_id BIGINT NOT NULL,
    model_id BIGINT NOT NULL,
    split_id BIGINT NOT NULL,
    protocol VARCHAR NOT NULL,
    partial BOOLEAN NOT NULL,           -- whether items without a vector were skipped (--partial)
    split_digest VARCHAR NOT NULL,      -- SHA-256 of the split's images and captions
    gallery_digest VARCHAR NOT NULL,    -- SHA-256 of the evaluated images and captions
    images BIGINT NOT NULL,             -- images in the gallery
    captions BIGINT NOT NULL,           -- captions in the gallery
    left_out_images BIGINT NOT NULL,    -- image file missing or failed
    left_out_captions BIGINT NOT NULL,  -- captions of these images, and failed captions
    pending_images BIGINT NOT NULL,     -- not embedded yet (only with --partial)
    pending_captions BIGINT NOT NULL,
    image_fingerprint VARCHAR NOT NULL,
    text_fingerprint VARCHAR NOT NULL,
    precision VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,
    seconds DOUBLE NOT NULL,            -- time of the ranking
    peak_memory BIGINT NOT NULL,        -- peak memory of the whole process in bytes
    evaluated_at TIMESTAMPTZ NOT NULL,
    caption_set VARCHAR DEFAULT 'all',  -- all, first5
    images_without_positive BIGINT DEFAULT 0, -- images in the gallery without a positive, not used as queries
    captions_without_positive BIGINT DEFAULT 0, -- captions in the gallery without a positive, not used as queries
    lost_positives BIGINT DEFAULT 0,    -- positives of the protocol that are not in the gallery
    seen_images BIGINT,                 -- images in the gallery that the model was trained on; null: unknown
    screen VARCHAR,                     -- precision of the matrix product: bf16, fp32, fp64
    rechecked BIGINT,                   -- scores computed again in float64
    scores BIGINT,                      -- all scores
    unseen BOOLEAN DEFAULT FALSE,       -- whether queries were restricted to unseen images (--unseen)
    asked_images BIGINT,                -- number of image queries; null: all images with a positive
    reranker VARCHAR,                   -- model whose matching head rescored the first candidates; null: not reranked
    rerank_top BIGINT,                  -- candidates of each query that were rescored
    rerank_weight DOUBLE,               -- weight of the first-stage score, which is added to the matching logit
    rerank_precision VARCHAR,           -- precision of the matching head
    rerank_fingerprint VARCHAR          -- fingerprint of the matching head
);

-- Training images of a model, as recorded by training or by `clipstore model trained`.
CREATE TABLE IF NOT EXISTS training_images (
    model_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL
);

-- Training images of a model by content: those listed with its adapter, and those removed from the catalog.
CREATE TABLE IF NOT EXISTS training_contents (
    model_id BIGINT NOT NULL,
    content VARCHAR NOT NULL            -- SHA-256 of the image file
);

-- The images of an evaluation that the model was trained on, when it was evaluated.
CREATE TABLE IF NOT EXISTS seen_images (
    evaluation_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL
);

-- Ranks: one row per positive pair and direction.
CREATE TABLE IF NOT EXISTS ranks (
    evaluation_id BIGINT NOT NULL,
    direction VARCHAR NOT NULL,         -- image_to_text, text_to_image
    query_id BIGINT NOT NULL,           -- image_id or caption_id, by direction
    positive_id BIGINT NOT NULL,        -- caption_id or image_id, by direction
    n_greater BIGINT NOT NULL,          -- candidates with a greater score than the positive
    n_equal BIGINT NOT NULL,            -- other candidates with the same score
    score DOUBLE NOT NULL
);

-- Hits: the top results of each query.
CREATE TABLE IF NOT EXISTS hits (
    evaluation_id BIGINT NOT NULL,
    direction VARCHAR NOT NULL,
    query_id BIGINT NOT NULL,
    position INTEGER NOT NULL,          -- from 1
    item_id BIGINT NOT NULL,            -- caption_id or image_id, by direction
    score DOUBLE NOT NULL
);

-- Scores of the protocol hard-negatives: one row per pair of hard_pairs.
CREATE TABLE IF NOT EXISTS hard_scores (
    evaluation_id BIGINT NOT NULL,
    positive_id BIGINT NOT NULL,        -- as in hard_pairs
    negative_id BIGINT NOT NULL,        -- as in hard_pairs
    positive_score DOUBLE,              -- of the image and its caption; null: one of the three has no vector
    negative_score DOUBLE               -- of the image and the hard negative; null: as above
);

-- Additional positive pairs, which the dataset itself does not list.
CREATE TABLE IF NOT EXISTS extra_positives (
    source VARCHAR NOT NULL,            -- eccv, cxc
    image_id BIGINT NOT NULL,
    caption_id BIGINT NOT NULL
);

-- Vectors of a fixed image and a fixed caption, encoded when a fingerprint is first used, and the libraries in use.
CREATE TABLE IF NOT EXISTS probes (
    fingerprint VARCHAR NOT NULL,
    device VARCHAR NOT NULL,            -- cpu, cuda
    software VARCHAR NOT NULL,
    vector FLOAT[] NOT NULL
);

-- Zero-shot classifications: one row per model, split, kind of labels and templates. The classes are the categories of the
-- split's dataset.
CREATE TABLE IF NOT EXISTS classifications (
    classification_id BIGINT NOT NULL,
    model_id BIGINT NOT NULL,
    split_id BIGINT NOT NULL,
    labels VARCHAR NOT NULL,            -- single: each image has exactly one class; multi
    templates VARCHAR[] NOT NULL,       -- in place of the model's prompt, with {} for the name of the class
    templates_digest VARCHAR NOT NULL,  -- SHA-256 of the templates
    top INTEGER[] NOT NULL,             -- the k of accuracy@k or hit_rate@k
    partial BOOLEAN NOT NULL,           -- whether images without a vector were skipped (--partial)
    split_digest VARCHAR NOT NULL,      -- SHA-256 of the split's images and their classes, and of all classes
    gallery_digest VARCHAR NOT NULL,    -- the same of the classified images
    classes BIGINT NOT NULL,            -- number of classes
    images BIGINT NOT NULL,             -- classified images
    unlabelled_images BIGINT NOT NULL,  -- of these, images without a class
    conflicting_images BIGINT NOT NULL, -- of these, images with the same image file as an image of other classes
    left_out_images BIGINT NOT NULL,    -- image file missing or failed
    pending_images BIGINT NOT NULL,     -- not embedded yet (only with --partial)
    seen_images BIGINT,                 -- classified images that the model was trained on; null: unknown
    image_fingerprint VARCHAR NOT NULL,
    text_fingerprint VARCHAR NOT NULL,
    precision VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,             -- data type of the stored image vectors
    seconds DOUBLE NOT NULL,            -- time of scoring and ranking
    evaluated_at TIMESTAMPTZ NOT NULL
);

-- Ranks of classes: one row per image and class that it has.
CREATE TABLE IF NOT EXISTS class_ranks (
    classification_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    category_id BIGINT NOT NULL,
    classes_greater INTEGER NOT NULL,   -- other classes with a greater score for the image
    classes_equal INTEGER NOT NULL,     -- other classes with the same score
    images_greater BIGINT,              -- other images with a greater score for the class; null: labels are single
    images_equal BIGINT,                -- other images with the same score
    score DOUBLE NOT NULL
);

-- The top classes of each image, equal scores in the order of category_id.
CREATE TABLE IF NOT EXISTS class_hits (
    classification_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    position INTEGER NOT NULL,          -- from 1
    category_id BIGINT NOT NULL,
    score DOUBLE NOT NULL
);

-- The scores of each image for all classes, of classifications with several labels.
CREATE TABLE IF NOT EXISTS class_scores (
    classification_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    scores DOUBLE[] NOT NULL            -- in the order of category_id
);
