-- The caption sets of evaluations.
FROM (VALUES ('all'), ('first5')) AS caption_sets (value);
