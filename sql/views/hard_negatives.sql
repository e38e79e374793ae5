-- The result of each pair of a caption and its hard negative: 1 if the caption has the higher score, 0 if the negative has,
-- and one half if both are equal, as for a random order of the two. Null: one of the three items has no vector.
CREATE OR REPLACE VIEW hard_negative_results AS
SELECT
    evaluation_id, image_id, subset, positive_id, negative_id, positive_score, negative_score,
    CASE
        WHEN positive_score > negative_score THEN 1::DOUBLE
        WHEN positive_score = negative_score THEN 0.5
        WHEN positive_score < negative_score THEN 0
    END AS correct
FROM hard_scores
JOIN hard_pairs USING (positive_id, negative_id);

-- The accuracy of every evaluation by the protocol hard-negatives on each subset: the mean result of its pairs.
CREATE OR REPLACE VIEW hard_negative_accuracy AS
SELECT
    evaluation_id, model, split, subset,
    count(correct) AS pairs,
    count(DISTINCT image_id) FILTER (WHERE correct IS NOT NULL) AS images,
    count(*) - count(correct) AS left_out,
    count(*) FILTER (WHERE correct = 0.5) AS ties,
    avg(correct) AS accuracy
FROM hard_negative_results
JOIN evaluation_names USING (evaluation_id)
GROUP BY ALL;

-- The metrics of every evaluation by the protocol hard-negatives: `accuracy` over all pairs (micro), `macro_accuracy`, the
-- mean of the accuracies of the subsets, which published tables report, and `accuracy/SUBSET` of each subset. Subsets
-- without a pair are left out.
CREATE OR REPLACE VIEW hard_negative_metrics AS
WITH per_evaluation AS (
    SELECT
        evaluation_id, model, split,
        sum(accuracy * pairs ORDER BY subset) / sum(pairs) AS accuracy,
        avg(accuracy ORDER BY subset) AS macro_accuracy
    FROM hard_negative_accuracy
    GROUP BY ALL
)
FROM (UNPIVOT per_evaluation ON accuracy, macro_accuracy INTO NAME metric VALUE value)
UNION ALL
SELECT evaluation_id, model, split, 'accuracy/' || subset, accuracy
FROM hard_negative_accuracy
WHERE accuracy IS NOT NULL;
