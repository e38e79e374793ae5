-- The current towers of a model: the image tower, then the text tower.
SELECT tower, fingerprint, precision, dim, backbone, features_dim, files_key
FROM towers
WHERE model_id = $model_id
ORDER BY tower;
