-- The models of the catalog.
SELECT model_id, name, family, base, adapter, prompt, clean, exif_orientation, origin FROM models ORDER BY name;
