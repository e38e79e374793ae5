-- One model.
SELECT model_id, name, family, base, adapter, prompt, clean, origin FROM models WHERE name = $name;
