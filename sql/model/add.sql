-- A model's description.
INSERT INTO models (model_id, name, family, base, adapter, prompt, clean, origin)
VALUES ($model_id, $name, $family, $base, $adapter, $prompt, $clean, $origin);
