-- One model.
SELECT model_id, name, family, base, adapter, prompt, clean, exif_orientation, origin FROM models WHERE name = $name;
