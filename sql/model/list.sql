-- The models of the catalog.
SELECT model_id, name, family, base, adapter, prompt, clean, origin FROM models ORDER BY name;
