-- What some captions tell (`wanted`: a list of their ids), as far as the lists of `words` know: one row per fact.
--
-- list 'category': `value` is a category of the caption's data set (of COCO's where it has none). colour, size and
-- count: `about` is what follows, a category within four words with no link, relation or posture between (for colour and
-- size no 'of' either: "a black and white photo of a dog"), else the next word that is in no list; of several counts
-- before a thing ("a couple of dogs") the last is meant. place and
-- posture: `about` is the category at most five words before. relation: `about` is the category at most five words
-- before and the one at most six after, in the order of the alphabet, the relation turned round with them (so it is not
-- told of two of one category, unless it is the same from both: who of both people is behind?). sex: of a person.
CREATE OR REPLACE MACRO caption_facts(wanted) AS TABLE
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
    SELECT caption_id, dataset_id, unnest(spoken) AS token, generate_subscripts(spoken, 1) AS place
    FROM (
        SELECT caption_id, dataset_id, caption_tokens(text) AS spoken
        FROM captions
        JOIN images USING (image_id)
        WHERE caption_id IN (SELECT unnest(wanted))
    )
),
phrases AS (
    SELECT *, token || ' ' || lead(token) OVER (PARTITION BY caption_id ORDER BY place) AS phrase FROM tokens
),
-- The longest match at each place; a word of an adjective's list is no category ("an orange cat").
matched AS (
    SELECT
        caption_id, place, token,
        wide.list IS NOT NULL OR wide_category.category IS NOT NULL AS is_phrase,
        coalesce(wide.list, CASE WHEN wide_category.category IS NULL THEN one.list END) AS list,
        CASE WHEN wide.list IS NULL THEN coalesce(one.value, '') ELSE wide.value END AS value,
        CASE WHEN wide.list IS NULL THEN one.opposite ELSE wide.opposite END AS opposite,
        coalesce(wide_category.category, CASE WHEN wide.list IS NULL AND one.list IS NULL THEN one_category.category END)
            AS category,
        coalesce(wide.list, one.list, wide_category.category, one_category.category) IS NULL AND token NOT IN ('of', 'and')
            AS is_thing
    FROM phrases
    LEFT JOIN words AS wide ON wide.word = phrase AND wide.list NOT IN ('coco', 'scenes', 'sex')
    LEFT JOIN words AS one ON one.word = token AND one.list NOT IN ('coco', 'scenes', 'sex')
    LEFT JOIN vocabulary AS wide_category
        ON wide_category.dataset_id = phrases.dataset_id AND wide_category.word = singular(phrase)
    LEFT JOIN vocabulary AS one_category
        ON one_category.dataset_id = phrases.dataset_id AND one_category.word = singular(token)
),
spoken AS (
    SELECT *
    FROM matched
    QUALIFY NOT coalesce(lag(is_phrase) OVER (PARTITION BY caption_id ORDER BY place), FALSE)
),
-- What stands around each word: the nearest category before and after, and the nearest end of an adjective's reach.
around AS (
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
    FROM spoken
    WINDOW
        earlier AS (PARTITION BY caption_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        later AS (PARTITION BY caption_id ORDER BY place ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
),
told AS (
    SELECT
        caption_id, place, list, value, opposite,
        least(place + 4, end_after, CASE WHEN list != 'count' THEN of_after END) AS reach,
        CASE
            WHEN place_after <= reach THEN category_after
            WHEN thing_place <= reach THEN singular(thing_after)
        END AS following,
        CASE WHEN place_before >= place - 5 THEN category_before END AS preceding,
        CASE WHEN place_after <= place + 6 THEN category_after END AS far_following
    FROM around
    WHERE list IS NOT NULL
)
SELECT DISTINCT caption_id, 'category' AS list, '' AS about, category AS value FROM spoken WHERE category IS NOT NULL
UNION ALL
SELECT DISTINCT caption_id, list, following, value
FROM told
WHERE list IN ('colour', 'size') AND following IS NOT NULL
UNION ALL
SELECT DISTINCT caption_id, list, following, arg_max(value, place)
FROM told
WHERE list = 'count' AND following IS NOT NULL
GROUP BY caption_id, list, following
UNION ALL
SELECT DISTINCT caption_id, list, preceding, value
FROM told
WHERE list IN ('place', 'posture') AND preceding IS NOT NULL
UNION ALL
SELECT DISTINCT
    caption_id, list,
    CASE WHEN turned THEN far_following || ', ' || preceding ELSE preceding || ', ' || far_following END,
    CASE WHEN turned THEN opposite ELSE value END
FROM (SELECT *, preceding > far_following AS turned FROM told)
WHERE list = 'relation' AND (preceding != far_following OR opposite = value)
UNION ALL
SELECT DISTINCT caption_id, 'sex', 'person', value
FROM tokens
JOIN words ON word = token
WHERE list = 'sex';
