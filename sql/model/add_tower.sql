-- A model's current tower.
INSERT INTO towers (model_id, tower, fingerprint, backbone, precision, dim, features_dim, files_key)
VALUES ($model_id, $tower, $fingerprint, $backbone, $precision, $dim, $features_dim, $files_key);
