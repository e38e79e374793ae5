-- Sentences as a model's text tower reads them, by its prompt and cleaning, with their content keys; by number.
SELECT number, told.text, sha256(told.text) AS content
FROM (SELECT number, model_text(sentence, $prompt, $clean) AS text FROM asked_sentences) AS told
ORDER BY number;
