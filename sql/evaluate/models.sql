-- The models that have vectors.
SELECT DISTINCT name FROM models JOIN towers USING (model_id) ORDER BY name;
