-- The tables of a catalog. Ids are the catalog's own; source_id is the id in the data set's own files.
CREATE TABLE IF NOT EXISTS store_format (
    version INTEGER NOT NULL,             -- of the last migration (see migrations.sql)
    schema_digest VARCHAR               -- of the statements that made the catalog
);

CREATE TABLE IF NOT EXISTS datasets (
    dataset_id BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,              -- coco, flickr, karpathy, csv: what it was ingested from first
    root VARCHAR NOT NULL,              -- where it was ingested from last
    cleaned BOOLEAN DEFAULT FALSE       -- its captions went through --clean
);

-- A photo. `content` is the SHA-256 of its bytes, taken when `size` and `modified_ns` were as they stand here.
CREATE TABLE IF NOT EXISTS images (
    image_id BIGINT NOT NULL,
    dataset_id BIGINT NOT NULL,
    source_id VARCHAR NOT NULL,
    file_name VARCHAR NOT NULL,         -- below the data set's root, or absolute; unique in the data set
    path VARCHAR NOT NULL,
    width INTEGER,
    height INTEGER,
    size BIGINT,
    modified_ns BIGINT,
    content VARCHAR,
    problem VARCHAR                     -- why the photo cannot be read at all; null: it can, or nobody looked yet
);

CREATE TABLE IF NOT EXISTS captions (
    caption_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    source_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL,              -- as the source has it
    position INTEGER NOT NULL           -- from 0, within the image
);

CREATE TABLE IF NOT EXISTS splits (
    split_id BIGINT NOT NULL,
    name VARCHAR NOT NULL,              -- group/split
    dataset_id BIGINT NOT NULL,
    source VARCHAR,                     -- the annotation file (or folder) that it is from; null: drawn
    drawn_from VARCHAR,                 -- how `clipstore split` drew it; null: it is a source's own
    origin_id BIGINT                    -- the split that it was drawn from
);

CREATE TABLE IF NOT EXISTS split_images (
    split_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL,
    position INTEGER NOT NULL           -- from 0, within the split
);

CREATE TABLE IF NOT EXISTS categories (
    category_id BIGINT NOT NULL,
    dataset_id BIGINT NOT NULL,
    source_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    supercategory VARCHAR
);

CREATE TABLE IF NOT EXISTS image_categories (
    image_id BIGINT NOT NULL,
    category_id BIGINT NOT NULL,
    instances INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS models (
    model_id BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    family VARCHAR NOT NULL,            -- clip; imported: vectors made elsewhere
    base VARCHAR NOT NULL,
    adapter VARCHAR,
    prompt VARCHAR,
    clean BOOLEAN NOT NULL,
    origin VARCHAR NOT NULL,            -- job, added, imported
    exif_orientation BOOLEAN DEFAULT false -- images are turned upright as their EXIF data says
);

-- The current fingerprint of each tower of each model.
CREATE TABLE IF NOT EXISTS towers (
    model_id BIGINT NOT NULL,
    tower VARCHAR NOT NULL,             -- image, text
    fingerprint VARCHAR NOT NULL,
    backbone VARCHAR,                   -- the fingerprint of the tower without its head
    precision VARCHAR NOT NULL,
    dim INTEGER NOT NULL,
    features_dim INTEGER NOT NULL,
    files_key VARCHAR NOT NULL          -- sizes and modification times of the files it was computed from
);

CREATE TABLE IF NOT EXISTS shards (
    shard_id BIGINT NOT NULL,
    fingerprint VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,              -- vectors, features
    tower VARCHAR NOT NULL,
    file VARCHAR NOT NULL,              -- below the store
    items BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cut BIGINT NOT NULL,                -- texts longer than the model reads
    dim INTEGER NOT NULL,
    dtype VARCHAR NOT NULL,
    bytes BIGINT NOT NULL,
    checksum VARCHAR NOT NULL
);

CREATE TABLE IF NOT EXISTS vectors (
    fingerprint VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    shard_id BIGINT NOT NULL,
    row INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS item_failures (
    fingerprint VARCHAR NOT NULL,
    tower VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    reason VARCHAR NOT NULL
);

-- What a tower's precision costs: items that went through fp32 too, and the least cosine between both vectors of one.
CREATE TABLE IF NOT EXISTS precision_checks (
    fingerprint VARCHAR NOT NULL,
    items BIGINT NOT NULL,
    least_cosine DOUBLE NOT NULL
);

-- One run of `clipstore eval`: what was measured on what.
CREATE TABLE IF NOT EXISTS evaluations (
    evaluation_id BIGINT NOT NULL,
    model_id BIGINT NOT NULL,
    split_id BIGINT NOT NULL,
    protocol VARCHAR NOT NULL,
    partial BOOLEAN NOT NULL,
    split_digest VARCHAR NOT NULL,
    gallery_digest VARCHAR NOT NULL,
    images BIGINT NOT NULL,
    captions BIGINT NOT NULL,
    left_out_images BIGINT NOT NULL,    -- photo missing or failed
    left_out_captions BIGINT NOT NULL,  -- theirs, and captions that failed themselves
    pending_images BIGINT NOT NULL,     -- not embedded yet (only with partial)
    pending_captions BIGINT NOT NULL,
    image_fingerprint VARCHAR NOT NULL,
    text_fingerprint VARCHAR NOT NULL,
    precision VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,
    seconds DOUBLE NOT NULL,
    peak_memory BIGINT NOT NULL,        -- bytes, of the whole process
    evaluated_at TIMESTAMPTZ NOT NULL,
    caption_set VARCHAR DEFAULT 'all',  -- all, first5
    images_without_positive BIGINT DEFAULT 0,-- asked nothing
    captions_without_positive BIGINT DEFAULT 0,
    lost_positives BIGINT DEFAULT 0,    -- not in the gallery
    seen_images BIGINT,                 -- trained on, of the images; null: not known
    screen VARCHAR,                     -- the precision of the product: bf16, fp32, fp64
    rechecked BIGINT,                   -- scores computed again in float64
    scores BIGINT,                      -- of so many
    unseen BOOLEAN DEFAULT FALSE,       -- asked with unseen images alone
    asked_images BIGINT                 -- asked with; null: all that have a positive
);

-- The images that a model was trained on, as far as the store was told.
CREATE TABLE IF NOT EXISTS training_images (
    model_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL
);

-- Images that a model was trained on elsewhere, by the SHA-256 of their files: the list that came with its adapter.
CREATE TABLE IF NOT EXISTS training_contents (
    model_id BIGINT NOT NULL,
    content VARCHAR NOT NULL
);

-- The images of an evaluation that its model was trained on when it was made.
CREATE TABLE IF NOT EXISTS seen_images (
    evaluation_id BIGINT NOT NULL,
    image_id BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS ranks (
    evaluation_id BIGINT NOT NULL,
    direction VARCHAR NOT NULL,         -- image_to_text, text_to_image
    query_id BIGINT NOT NULL,
    positive_id BIGINT NOT NULL,
    n_greater BIGINT NOT NULL,
    n_equal BIGINT NOT NULL,
    score DOUBLE NOT NULL
);

CREATE TABLE IF NOT EXISTS hits (
    evaluation_id BIGINT NOT NULL,
    direction VARCHAR NOT NULL,
    query_id BIGINT NOT NULL,
    position INTEGER NOT NULL,          -- from 1
    item_id BIGINT NOT NULL,
    score DOUBLE NOT NULL
);

-- Pairs that are right though no data set says so, as other work found out later: `source` names it (eccv, cxc).
CREATE TABLE IF NOT EXISTS extra_positives (
    source VARCHAR NOT NULL,
    image_id BIGINT NOT NULL,
    caption_id BIGINT NOT NULL
);

-- What a tower gave for a fixed image or caption when its fingerprint was first used, and the libraries it ran on.
CREATE TABLE IF NOT EXISTS probes (
    fingerprint VARCHAR NOT NULL,
    device VARCHAR NOT NULL,            -- cpu, cuda
    software VARCHAR NOT NULL,
    vector FLOAT[] NOT NULL
);
