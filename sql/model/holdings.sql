-- What the store holds of a model: vectors and failures of each tower.
SELECT
    towers.tower, precision, dim, fingerprint,
    (SELECT count(*) FROM vectors WHERE vectors.fingerprint = towers.fingerprint) AS vectors,
    (SELECT count(*) FROM item_failures WHERE item_failures.fingerprint = towers.fingerprint) AS failures,
    (SELECT min(least_cosine) FROM precision_checks WHERE precision_checks.fingerprint = towers.fingerprint)
        AS least_cosine_to_fp32
FROM towers
WHERE model_id = $model_id
ORDER BY tower;
