-- The facts that some captions state (`caption_ids`: a list), as far as the lists of `words` cover them: one row per fact.
--
-- list 'category': `value` is a category of the caption's dataset (one of COCO's if it has none).
-- colour, size, count: `about` is what follows: a category within four words without a link, relation or posture between
-- them (for colour and size also without 'of': "a black and white photo of a dog"), else the next word that is in no
-- list. Of several counts before a thing ("a couple of dogs") the last applies.
-- place, posture: `about` is the category at most five words before.
-- relation: `about` is the category at most five words before and the one at most six words after, in alphabetical order;
-- if they are swapped, the relation becomes its opposite. A relation between two things of one category is left out
-- unless it is symmetric: it does not say which of two persons is behind.
-- sex: of a person.
CREATE OR REPLACE MACRO caption_facts(caption_ids) AS TABLE
WITH vocabulary AS (
    SELECT dataset_id, singular(lower(name)) AS word, name AS category FROM categories
    UNION
    SELECT dataset_id, singular(word), name
    FROM categories
    JOIN words ON words.value = lower(name) AND list IN ('coco', 'scenes')
    UNION
    SELECT dataset_id, singular(word), value
    FROM (SELECT dataset_id FROM datasets ANTI JOIN categories USING (dataset_id))
    CROSS JOIN words
    WHERE list = 'coco'
),
tokens AS (
    SELECT caption_id, dataset_id, unnest(words_of_caption) AS token, generate_subscripts(words_of_caption, 1) AS place
    FROM (
        SELECT caption_id, dataset_id, caption_tokens(text) AS words_of_caption
        FROM captions
        JOIN images USING (image_id)
        WHERE caption_id IN (SELECT unnest(caption_ids))
    )
),
phrases AS (
    SELECT *, token || ' ' || lead(token) OVER (PARTITION BY caption_id ORDER BY place) AS phrase FROM tokens
),
-- The longest match at each place; a word of an adjective's list is not a category ("an orange cat").
matched AS (
    SELECT
        caption_id, place, token,
        pair.list IS NOT NULL OR pair_category.category IS NOT NULL AS is_phrase,
        coalesce(pair.list, CASE WHEN pair_category.category IS NULL THEN single.list END) AS list,
        CASE WHEN pair.list IS NULL THEN coalesce(single.value, '') ELSE pair.value END AS value,
        CASE WHEN pair.list IS NULL THEN single.opposite ELSE pair.opposite END AS opposite,
        coalesce(pair_category.category, CASE WHEN pair.list IS NULL AND single.list IS NULL THEN single_category.category END)
            AS category,
        coalesce(pair.list, single.list, pair_category.category, single_category.category) IS NULL AND token NOT IN ('of', 'and')
            AS is_thing
    FROM phrases
    LEFT JOIN words AS pair ON pair.word = phrase AND pair.list NOT IN ('coco', 'scenes', 'sex')
    LEFT JOIN words AS single ON single.word = token AND single.list NOT IN ('coco', 'scenes', 'sex')
    LEFT JOIN vocabulary AS pair_category
        ON pair_category.dataset_id = phrases.dataset_id AND pair_category.word = singular(phrase)
    LEFT JOIN vocabulary AS single_category
        ON single_category.dataset_id = phrases.dataset_id AND single_category.word = singular(token)
),
terms AS (
    SELECT *
    FROM matched
    QUALIFY NOT coalesce(lag(is_phrase) OVER (PARTITION BY caption_id ORDER BY place), FALSE)
),
-- The context of each word: the nearest category before and after, and the nearest end of an adjective's reach.
contexts AS (
    SELECT
        *,
        arg_max(category, place) FILTER (WHERE category IS NOT NULL) OVER earlier AS category_before,
        max(place) FILTER (WHERE category IS NOT NULL) OVER earlier AS place_before,
        arg_min(category, place) FILTER (WHERE category IS NOT NULL) OVER later AS category_after,
        min(place) FILTER (WHERE category IS NOT NULL) OVER later AS place_after,
        min(place) FILTER (WHERE list IN ('link', 'relation', 'posture', 'place')) OVER later AS end_after,
        min(place) FILTER (WHERE token = 'of') OVER later AS of_after,
        arg_min(token, place) FILTER (WHERE is_thing) OVER later AS thing_after,
        min(place) FILTER (WHERE is_thing) OVER later AS thing_place
    FROM terms
    WINDOW
        earlier AS (PARTITION BY caption_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        later AS (PARTITION BY caption_id ORDER BY place ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
),
facts AS (
    SELECT
        caption_id, place, list, value, opposite,
        least(place + 4, end_after, CASE WHEN list != 'count' THEN of_after END) AS reach,
        CASE
            WHEN place_after <= reach THEN category_after
            WHEN thing_place <= reach THEN singular(thing_after)
        END AS following,
        CASE WHEN place_before >= place - 5 THEN category_before END AS preceding,
        CASE WHEN place_after <= place + 6 THEN category_after END AS far_following
    FROM contexts
    WHERE list IS NOT NULL
)
SELECT DISTINCT caption_id, 'category' AS list, '' AS about, category AS value FROM terms WHERE category IS NOT NULL
UNION ALL
SELECT DISTINCT caption_id, list, following, value
FROM facts
WHERE list IN ('colour', 'size') AND following IS NOT NULL
UNION ALL
SELECT DISTINCT caption_id, list, following, arg_max(value, place)
FROM facts
WHERE list = 'count' AND following IS NOT NULL
GROUP BY caption_id, list, following
UNION ALL
SELECT DISTINCT caption_id, list, preceding, value
FROM facts
WHERE list IN ('place', 'posture') AND preceding IS NOT NULL
UNION ALL
SELECT DISTINCT
    caption_id, list,
    CASE WHEN swapped THEN far_following || ', ' || preceding ELSE preceding || ', ' || far_following END,
    CASE WHEN swapped THEN opposite ELSE value END
FROM (SELECT *, preceding > far_following AS swapped FROM facts)
WHERE list = 'relation' AND (preceding != far_following OR opposite = value)
UNION ALL
SELECT DISTINCT caption_id, 'sex', 'person', value
FROM tokens
JOIN words ON word = token
WHERE list = 'sex';
