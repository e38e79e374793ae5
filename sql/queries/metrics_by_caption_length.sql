-- Text-to-image metrics by caption length (number of words).
WITH queries AS (
    SELECT
        query_ranks.*, model, split,
        len(caption_words(captions.text)) AS words
    FROM query_ranks
    JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
    JOIN captions ON caption_id = query_id
    WHERE direction = 'text_to_image'
)
SELECT
    model, split,
    CASE WHEN words <= 6 THEN '1-6' WHEN words <= 9 THEN '7-9' WHEN words <= 12 THEN '10-12'
        WHEN words <= 16 THEN '13-16' ELSE '17 and more' END AS caption_words,
    count(*) AS queries,
    avg(hit_chance(1, n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS "recall@1",
    avg(hit_chance(10, n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS "recall@10",
    avg(reciprocal_rank(n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS mrr
FROM queries
GROUP BY evaluation_id, model, split, caption_words
ORDER BY evaluation_id, min(words);
