-- How much a catalog holds.
SELECT
    (SELECT count(*) FROM datasets) AS datasets,
    (SELECT count(*) FROM splits) AS splits,
    (SELECT count(*) FROM images) AS images,
    (SELECT count(*) FROM captions) AS captions,
    (SELECT count(*) FROM models) AS models,
    (SELECT count(*) FROM shards) AS shards,
    (SELECT count(*) FROM vectors) AS vectors,
    (SELECT count(*) FROM item_failures) AS item_failures,
    (SELECT count(*) FROM evaluations) AS evaluations,
    (SELECT count(*) FROM ranks) AS ranks,
    (SELECT count(*) FROM hits) AS hits;
