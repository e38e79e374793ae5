-- A model's description.
INSERT INTO models (model_id, name, family, base, adapter, prompt, clean, exif_orientation, origin)
VALUES ($model_id, $name, $family, $base, $adapter, $prompt, $clean, $exif_orientation, $origin);
