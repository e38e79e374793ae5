-- The kinds of failures, in the order of the rules of failure_kinds.
CREATE OR REPLACE VIEW failure_kind_names AS
FROM (VALUES
    (1, 'equal_caption'), (2, 'near_duplicate'), (3, 'extra_positive'), (4, 'hub'), (5, 'wrong_attribute'),
    (6, 'wrong_count'), (7, 'wrong_relation'), (8, 'wrong_categories'), (9, 'unclassified')
) AS kinds (place, kind);

-- Why each failed query failed: one row per query, with the first kind that fits, and what speaks for it.
--
-- Every failure is a wrong pair of an image and a caption (see failed_queries), and all that the rules know of the image
-- is its captions, its categories and its file: SQL sees neither pictures nor vectors. In this order:
--
--  1 equal_caption     the caption of the wrong pair stands at the image as well, word for word (letter case and
--                      punctuation aside): a tie, or a right answer that is not counted.
--  2 near_duplicate    it nearly does: of the words of both, links and articles aside, at least three quarters are common
--                      (one word in seven exchanged leaves six of eight), and none of the others stands in `words`, for
--                      a dog is no cat and two are not three. Or the image nearly is the right one: it is the caption's
--                      own, or the same file, or four fifths of the captions of either stand at the other.
--  3 extra_positive    people or machines found later that the caption fits the image: it is in extra_positives, which
--                      `clipstore eval` fills where the package eccv-caption knows the data set. Else it cannot fire.
--  4 hub               what came instead is retrieved far more often than by chance in ten places (see hub_threshold).
--  5 wrong_attribute, wrong_count, wrong_relation
--                      every category that the caption tells of is there (by the annotated instances or the captions
--                      of the image), and it tells a colour, size or sex, else a count, else a relation, posture or
--                      place of something of which the image's captions tell others and never this one. The number of
--                      instances counts as told. What the captions keep silent about speaks neither way.
--  6 wrong_categories  the caption tells of a category that is not there; or it tells of none, and its own image and
--                      this one have categories, and none in common.
--  7 unclassified      none of these: mostly pairs in which nothing that is told speaks against the caption.
--
-- failure_kinds_of judges the failures of some queries alone (null: of all), in a fraction of the time.
CREATE OR REPLACE MACRO failure_kinds_of(wanted_queries) AS TABLE
WITH thresholds AS (
    SELECT
        0.75 AS common_words,       -- rule 2, of the words of two captions
        0.8 AS common_captions,     -- rule 2, of the captions of two images
        10 AS places                -- rule 4
),
failed AS MATERIALIZED (
    SELECT evaluation_id, direction, query_id, wanted_id, came_id, shown_id, told_id
    FROM failed_queries
    WHERE wanted_queries IS NULL OR list_contains(wanted_queries, query_id)
),
pairs AS MATERIALIZED (
    SELECT DISTINCT shown_id, told_id, captions.image_id AS own_id
    FROM failed
    JOIN captions ON caption_id = told_id
    WHERE shown_id IS NOT NULL
),
-- Words without a meaning of their own, and words of which a single one makes a difference.
weights AS (
    SELECT
        list(DISTINCT word) FILTER (WHERE list = 'link' OR word IN ('a', 'an')) AS light,
        list_distinct(flatten(list(string_split(singular(word), ' ')) FILTER (WHERE list != 'link' AND word NOT IN ('a', 'an'))))
            AS heavy
    FROM (SELECT list, word FROM words UNION ALL SELECT 'category', lower(name) FROM categories)
),
spoken AS MATERIALIZED (
    SELECT
        caption_id,
        image_id,
        array_to_string(caption_tokens(text), ' ') AS sentence,
        list_filter(list_distinct(caption_tokens(text)), lambda word: NOT list_contains(light, word)) AS telling
    FROM captions
    CROSS JOIN weights
    WHERE image_id IN (SELECT shown_id FROM pairs UNION SELECT own_id FROM pairs)
),
-- The caption of each wrong pair beside those captions of its image that are as long, nearly, and share most words.
beside AS MATERIALIZED (
    SELECT shown_id, told_id, its.sentence, told.sentence = its.sentence AS equal, told.telling AS mine, its.telling AS its
    FROM pairs
    JOIN spoken AS told ON told.caption_id = told_id
    JOIN spoken AS its ON its.image_id = shown_id AND its.caption_id != told_id
    CROSS JOIN thresholds
    WHERE least(len(told.telling), len(its.telling)) >= common_words * greatest(len(told.telling), len(its.telling))
),
compared AS MATERIALIZED (
    SELECT *, len(list_intersect(mine, its)) AS common FROM beside
),
alike AS (
    SELECT
        shown_id, told_id, bool_or(equal) AS equal,
        min(sentence) FILTER (WHERE NOT list_has_any(heavy, list_transform(
            list_filter(mine || its, lambda word: NOT (list_contains(mine, word) AND list_contains(its, word))),
            lambda word: singular(word)
        ))) AS near
    FROM compared
    CROSS JOIN weights
    CROSS JOIN thresholds
    WHERE equal OR common > 0 AND common >= common_words * (len(mine) + len(its) - common)
    GROUP BY shown_id, told_id
),
caption_sets AS (
    SELECT image_id, list(DISTINCT sentence) AS sentences FROM spoken GROUP BY image_id
),
same_image AS (
    SELECT
        shown_id,
        told_id,
        CASE
            WHEN shown_id = own_id THEN 'another caption of the same image'
            WHEN shown.content = own.content THEN 'the same photo'
            WHEN len(list_intersect(one.sentences, other.sentences))
                >= common_captions * greatest(len(one.sentences), len(other.sentences)) THEN 'the same captions'
        END AS how
    FROM pairs
    JOIN images AS shown ON shown.image_id = shown_id
    JOIN images AS own ON own.image_id = own_id
    LEFT JOIN caption_sets AS one ON one.image_id = shown_id
    LEFT JOIN caption_sets AS other ON other.image_id = own_id
    CROSS JOIN thresholds
),
extra AS (
    SELECT image_id AS shown_id, caption_id AS told_id, string_agg(DISTINCT source, ', ' ORDER BY source) AS sources
    FROM extra_positives
    GROUP BY image_id, caption_id
),
facts AS MATERIALIZED (
    SELECT facts.*, image_id
    FROM caption_facts((SELECT list(caption_id) FROM spoken)) AS facts
    JOIN spoken USING (caption_id)
),
annotated AS (
    SELECT image_id, name, instances FROM image_categories JOIN categories USING (category_id)
),
shown AS (
    SELECT image_id, name AS category FROM annotated
    UNION
    SELECT image_id, value FROM facts WHERE list = 'category'
),
-- The categories that each wrong caption tells of, and those of them that its image does not show.
categories_told AS (
    SELECT
        shown_id, told_id,
        string_agg(value, ', ' ORDER BY value) AS told,
        string_agg(value, ', ' ORDER BY value) FILTER (WHERE category IS NULL) AS absent
    FROM pairs
    JOIN facts ON caption_id = told_id AND list = 'category'
    LEFT JOIN shown ON shown.image_id = shown_id AND category = value
    GROUP BY shown_id, told_id
),
shown_together AS (
    SELECT image_id, list(category) AS categories FROM shown GROUP BY image_id
),
image_facts AS (
    SELECT DISTINCT image_id, list, about, value FROM facts WHERE list != 'category'
    UNION
    SELECT image_id, 'count', name, CASE WHEN instances <= 6 THEN instances::VARCHAR ELSE 'many' END FROM annotated
),
-- What each wrong caption tells of something of which its image's captions tell other things alone.
denied AS (
    SELECT
        shown_id, told_id, told.list, told.about, told.value,
        concat(told.about, ': ', told.value, ', not ', string_agg(DISTINCT its.value, ' or ' ORDER BY its.value)) AS what
    FROM pairs
    JOIN facts AS told ON told.caption_id = told_id AND told.list != 'category'
    JOIN image_facts AS its ON its.image_id = shown_id AND its.list = told.list AND its.about = told.about
    GROUP BY shown_id, told_id, told.list, told.about, told.value
    HAVING NOT bool_or(
        its.value = told.value
        OR told.list = 'count' AND 'many' IN (its.value, told.value) AND '1' NOT IN (its.value, told.value)
    )
),
wrong AS (
    SELECT
        shown_id, told_id,
        string_agg(what, '; ' ORDER BY what) FILTER (WHERE list IN ('colour', 'size', 'sex')) AS attribute,
        string_agg(what, '; ' ORDER BY what) FILTER (WHERE list = 'count') AS number,
        string_agg(what, '; ' ORDER BY what) FILTER (WHERE list IN ('relation', 'posture', 'place')) AS relation
    FROM denied
    GROUP BY shown_id, told_id
),
hubs AS (
    SELECT evaluation_id, direction, item_id AS came_id, times, mean
    FROM k_occurrences((SELECT places FROM thresholds))
    WHERE times >= threshold
),
judged AS (
    SELECT
        failed.*,
        CASE
            WHEN equal THEN {'kind': 'equal_caption', 'detail': NULL}
            WHEN alike.near IS NOT NULL THEN {'kind': 'near_duplicate', 'detail': alike.near}
            WHEN how IS NOT NULL THEN {'kind': 'near_duplicate', 'detail': how}
            WHEN sources IS NOT NULL THEN {'kind': 'extra_positive', 'detail': sources}
            WHEN times IS NOT NULL
                THEN {'kind': 'hub', 'detail': format('retrieved {} times, {:.1f} expected', times, mean)}
            WHEN absent IS NULL AND attribute IS NOT NULL THEN {'kind': 'wrong_attribute', 'detail': attribute}
            WHEN absent IS NULL AND number IS NOT NULL THEN {'kind': 'wrong_count', 'detail': number}
            WHEN absent IS NULL AND relation IS NOT NULL THEN {'kind': 'wrong_relation', 'detail': relation}
            WHEN absent IS NOT NULL THEN {'kind': 'wrong_categories', 'detail': absent || ' not there'}
            WHEN told IS NULL AND NOT list_has_any(its.categories, own.categories)
                THEN {'kind': 'wrong_categories', 'detail': 'the images have no category in common'}
            ELSE {'kind': 'unclassified', 'detail': coalesce(told || ' there', 'tells of no category')}
        END AS verdict
    FROM failed
    LEFT JOIN pairs USING (shown_id, told_id)
    LEFT JOIN alike USING (shown_id, told_id)
    LEFT JOIN same_image USING (shown_id, told_id)
    LEFT JOIN extra USING (shown_id, told_id)
    LEFT JOIN hubs USING (evaluation_id, direction, came_id)
    LEFT JOIN categories_told USING (shown_id, told_id)
    LEFT JOIN wrong USING (shown_id, told_id)
    LEFT JOIN shown_together AS its ON its.image_id = shown_id
    LEFT JOIN shown_together AS own ON own.image_id = own_id
)
SELECT evaluation_id, direction, query_id, wanted_id, verdict.kind AS kind, verdict.detail AS detail FROM judged;

CREATE OR REPLACE VIEW failure_kinds AS FROM failure_kinds_of(NULL);
