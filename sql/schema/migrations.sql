-- Migrations: each brings a catalog of the preceding format version up to the tables of tables.sql. They run once, in
-- order, in the transaction that records the new version in store_format.

-- name: 2
-- The columns that format 1 gained over time: a catalog may lack any of them. training_photos is training_contents.
ALTER TABLE IF EXISTS store_format ADD COLUMN IF NOT EXISTS schema_digest VARCHAR;
ALTER TABLE IF EXISTS datasets ADD COLUMN IF NOT EXISTS cleaned BOOLEAN DEFAULT FALSE;
ALTER TABLE IF EXISTS splits ADD COLUMN IF NOT EXISTS origin_id BIGINT;
ALTER TABLE IF EXISTS models ADD COLUMN IF NOT EXISTS exif_orientation BOOLEAN DEFAULT false;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS caption_set VARCHAR DEFAULT 'all';
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS images_without_positive BIGINT DEFAULT 0;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS captions_without_positive BIGINT DEFAULT 0;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS lost_positives BIGINT DEFAULT 0;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS seen_images BIGINT;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS screen VARCHAR;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS rechecked BIGINT;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS scores BIGINT;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS unseen BOOLEAN DEFAULT FALSE;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS asked_images BIGINT;
ALTER TABLE IF EXISTS training_photos RENAME TO training_contents;
UPDATE images SET problem = replace(problem, 'the photo ', 'the image file ') WHERE starts_with(problem, 'the photo ');
DROP MACRO TABLE IF EXISTS asked_evaluations;

-- name: 3
-- The release of clipstore that wrote the catalog, which a refusal of a later format names.
ALTER TABLE IF EXISTS store_format ADD COLUMN IF NOT EXISTS release VARCHAR;

-- name: 4
-- The columns of reranked evaluations.
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS reranker VARCHAR;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS rerank_top BIGINT;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS rerank_weight DOUBLE;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS rerank_precision VARCHAR;
ALTER TABLE IF EXISTS evaluations ADD COLUMN IF NOT EXISTS rerank_fingerprint VARCHAR;
