-- The kinds of failure, in the order of the rules of failure_kinds.
CREATE OR REPLACE VIEW failure_kind_names AS
FROM (VALUES
    (1, 'equal_caption'), (2, 'near_duplicate'), (3, 'extra_positive'), (4, 'hub'), (5, 'wrong_attribute'),
    (6, 'wrong_count'), (7, 'wrong_relation'), (8, 'wrong_categories'), (9, 'unclassified')
) AS kinds (place, kind);

-- The kind of each failure: one row per failed query, with the first kind whose rule applies, and its evidence (`detail`).
--
-- Each failure is a wrong pair of an image and a caption (see failed_queries). The rules use the image's captions,
-- categories and file; SQL sees neither pixels nor vectors. In this order:
--
--  1 equal_caption     The image has a caption equal to that of the wrong pair (except for case and punctuation): a tie,
--                      or a correct result that is not counted.
--  2 near_duplicate    The image has a nearly equal caption: of the words of both, without links and articles, at least
--                      three quarters are common (one word in seven replaced leaves six of eight), and none of the
--                      others is in `words`, because a dog is not a cat and two are not three. Or the image is nearly
--                      the right one: it is the caption's own image, it has the same file, or four fifths of the
--                      captions of either image are captions of the other.
--  3 extra_positive    People or models found later that the caption fits the image: the pair is in extra_positives,
--                      which `clipstore eval` fills if the package eccv-caption covers the dataset.
--  4 hub               The returned item is retrieved far more often among ten places than by chance (hub_threshold).
--  5 wrong_attribute, wrong_count, wrong_relation
--                      Every category that the caption mentions is present (in the annotated instances or the captions
--                      of the image), and the caption states a colour, size or sex, else a count, else a relation,
--                      posture or place for which the image's captions state other values and never this one. The
--                      number of annotated instances counts as stated. The absence of a mention is not evidence either
--                      way.
--  6 wrong_categories  The caption mentions a category that is not present; or it mentions none, and its own image and
--                      this one both have categories but none in common.
--  7 unclassified      No rule applies: in most of these pairs, nothing contradicts the caption.
--
-- failure_kinds_of classifies only the failures of some queries (null: of all), in a fraction of the time.
CREATE OR REPLACE MACRO failure_kinds_of(query_ids) AS TABLE
WITH thresholds AS (
    SELECT
        0.75 AS common_words,       -- rule 2, of the words of two captions
        0.8 AS common_captions,     -- rule 2, of the captions of two images
        10 AS places                -- rule 4
),
failed AS MATERIALIZED (
    SELECT evaluation_id, direction, query_id, wanted_id, came_id, pair_image_id, pair_caption_id
    FROM failed_queries
    WHERE query_ids IS NULL OR list_contains(query_ids, query_id)
),
pairs AS MATERIALIZED (
    SELECT DISTINCT pair_image_id, pair_caption_id, captions.image_id AS own_image_id
    FROM failed
    JOIN captions ON caption_id = pair_caption_id
    WHERE pair_image_id IS NOT NULL
),
-- Words that are ignored in comparing captions, and words of which a single one makes a difference.
word_classes AS (
    SELECT
        list(DISTINCT word) FILTER (WHERE list = 'link' OR word IN ('a', 'an')) AS ignored,
        list_distinct(flatten(list(string_split(singular(word), ' ')) FILTER (WHERE list != 'link' AND word NOT IN ('a', 'an'))))
            AS distinctive
    FROM (SELECT list, word FROM words UNION ALL SELECT 'category', lower(name) FROM categories)
),
sentences_of_images AS MATERIALIZED (
    SELECT
        caption_id,
        image_id,
        array_to_string(caption_tokens(text), ' ') AS sentence,
        list_filter(list_distinct(caption_tokens(text)), lambda word: NOT list_contains(ignored, word)) AS content_words
    FROM captions
    CROSS JOIN word_classes
    WHERE image_id IN (SELECT pair_image_id FROM pairs UNION SELECT own_image_id FROM pairs)
),
-- The caption of each wrong pair beside the captions of its image that have nearly as many words.
caption_pairs AS MATERIALIZED (
    SELECT
        pair_image_id, pair_caption_id, other.sentence, caption.sentence = other.sentence AS equal,
        caption.content_words AS words, other.content_words AS other_words
    FROM pairs
    JOIN sentences_of_images AS caption ON caption.caption_id = pair_caption_id
    JOIN sentences_of_images AS other ON other.image_id = pair_image_id AND other.caption_id != pair_caption_id
    CROSS JOIN thresholds
    WHERE least(len(caption.content_words), len(other.content_words))
        >= common_words * greatest(len(caption.content_words), len(other.content_words))
),
compared AS MATERIALIZED (
    SELECT *, len(list_intersect(words, other_words)) AS common FROM caption_pairs
),
equal_or_near AS (
    SELECT
        pair_image_id, pair_caption_id, bool_or(equal) AS equal,
        min(sentence) FILTER (WHERE NOT list_has_any(distinctive, list_transform(
            list_filter(words || other_words, lambda word: NOT (list_contains(words, word) AND list_contains(other_words, word))),
            lambda word: singular(word)
        ))) AS near
    FROM compared
    CROSS JOIN word_classes
    CROSS JOIN thresholds
    WHERE equal OR common > 0 AND common >= common_words * (len(words) + len(other_words) - common)
    GROUP BY pair_image_id, pair_caption_id
),
caption_sets AS (
    SELECT image_id, list(DISTINCT sentence) AS sentences FROM sentences_of_images GROUP BY image_id
),
same_image AS (
    SELECT
        pair_image_id,
        pair_caption_id,
        CASE
            WHEN pair_image_id = own_image_id THEN 'another caption of the same image'
            WHEN shown.content = own.content THEN 'the same image file'
            WHEN len(list_intersect(shown_captions.sentences, own_captions.sentences))
                >= common_captions * greatest(len(shown_captions.sentences), len(own_captions.sentences)) THEN 'the same captions'
        END AS same_image_detail
    FROM pairs
    JOIN images AS shown ON shown.image_id = pair_image_id
    JOIN images AS own ON own.image_id = own_image_id
    LEFT JOIN caption_sets AS shown_captions ON shown_captions.image_id = pair_image_id
    LEFT JOIN caption_sets AS own_captions ON own_captions.image_id = own_image_id
    CROSS JOIN thresholds
),
extra AS (
    SELECT image_id AS pair_image_id, caption_id AS pair_caption_id, string_agg(DISTINCT source, ', ' ORDER BY source) AS sources
    FROM extra_positives
    GROUP BY image_id, caption_id
),
facts AS MATERIALIZED (
    SELECT facts.*, image_id
    FROM caption_facts((SELECT list(caption_id) FROM sentences_of_images)) AS facts
    JOIN sentences_of_images USING (caption_id)
),
annotated AS (
    SELECT image_id, name, instances FROM image_categories JOIN categories USING (category_id)
),
present AS (
    SELECT image_id, name AS category FROM annotated
    UNION
    SELECT image_id, value FROM facts WHERE list = 'category'
),
-- The categories that each wrong caption mentions, and those of them that are not present in its image.
mentioned_categories AS (
    SELECT
        pair_image_id, pair_caption_id,
        string_agg(value, ', ' ORDER BY value) AS mentioned,
        string_agg(value, ', ' ORDER BY value) FILTER (WHERE category IS NULL) AS absent
    FROM pairs
    JOIN facts ON caption_id = pair_caption_id AND list = 'category'
    LEFT JOIN present ON present.image_id = pair_image_id AND category = value
    GROUP BY pair_image_id, pair_caption_id
),
present_lists AS (
    SELECT image_id, list(category) AS categories FROM present GROUP BY image_id
),
image_facts AS (
    SELECT DISTINCT image_id, list, about, value FROM facts WHERE list != 'category'
    UNION
    SELECT image_id, 'count', name, CASE WHEN instances <= 6 THEN instances::VARCHAR ELSE 'many' END FROM annotated
),
-- The facts that each wrong caption states and for which its image has only other values.
contradictions AS (
    SELECT
        pair_image_id, pair_caption_id, stated.list, stated.about, stated.value,
        concat(stated.about, ': ', stated.value, ', not ', string_agg(DISTINCT actual.value, ' or ' ORDER BY actual.value))
            AS detail
    FROM pairs
    JOIN facts AS stated ON stated.caption_id = pair_caption_id AND stated.list != 'category'
    JOIN image_facts AS actual
        ON actual.image_id = pair_image_id AND actual.list = stated.list AND actual.about = stated.about
    GROUP BY pair_image_id, pair_caption_id, stated.list, stated.about, stated.value
    HAVING NOT bool_or(
        actual.value = stated.value
        OR stated.list = 'count' AND 'many' IN (actual.value, stated.value) AND '1' NOT IN (actual.value, stated.value)
    )
),
wrong AS (
    SELECT
        pair_image_id, pair_caption_id,
        string_agg(detail, '; ' ORDER BY detail) FILTER (WHERE list IN ('colour', 'size', 'sex')) AS attribute,
        string_agg(detail, '; ' ORDER BY detail) FILTER (WHERE list = 'count') AS number,
        string_agg(detail, '; ' ORDER BY detail) FILTER (WHERE list IN ('relation', 'posture', 'place')) AS relation
    FROM contradictions
    GROUP BY pair_image_id, pair_caption_id
),
hubs AS (
    SELECT evaluation_id, direction, item_id AS came_id, times, mean
    FROM k_occurrences((SELECT places FROM thresholds))
    WHERE times >= threshold
),
classified AS (
    SELECT
        failed.*,
        CASE
            WHEN equal THEN {'kind': 'equal_caption', 'detail': NULL}
            WHEN equal_or_near.near IS NOT NULL THEN {'kind': 'near_duplicate', 'detail': equal_or_near.near}
            WHEN same_image_detail IS NOT NULL THEN {'kind': 'near_duplicate', 'detail': same_image_detail}
            WHEN sources IS NOT NULL THEN {'kind': 'extra_positive', 'detail': sources}
            WHEN times IS NOT NULL
                THEN {'kind': 'hub', 'detail': format('retrieved {} times, {:.1f} expected', times, mean)}
            WHEN absent IS NULL AND attribute IS NOT NULL THEN {'kind': 'wrong_attribute', 'detail': attribute}
            WHEN absent IS NULL AND number IS NOT NULL THEN {'kind': 'wrong_count', 'detail': number}
            WHEN absent IS NULL AND relation IS NOT NULL THEN {'kind': 'wrong_relation', 'detail': relation}
            WHEN absent IS NOT NULL THEN {'kind': 'wrong_categories', 'detail': absent || ' not there'}
            WHEN mentioned IS NULL AND NOT list_has_any(shown_lists.categories, own_lists.categories)
                THEN {'kind': 'wrong_categories', 'detail': 'the images have no category in common'}
            ELSE {'kind': 'unclassified', 'detail': coalesce(mentioned || ' there', 'mentions no category')}
        END AS verdict
    FROM failed
    LEFT JOIN pairs USING (pair_image_id, pair_caption_id)
    LEFT JOIN equal_or_near USING (pair_image_id, pair_caption_id)
    LEFT JOIN same_image USING (pair_image_id, pair_caption_id)
    LEFT JOIN extra USING (pair_image_id, pair_caption_id)
    LEFT JOIN hubs USING (evaluation_id, direction, came_id)
    LEFT JOIN mentioned_categories USING (pair_image_id, pair_caption_id)
    LEFT JOIN wrong USING (pair_image_id, pair_caption_id)
    LEFT JOIN present_lists AS shown_lists ON shown_lists.image_id = pair_image_id
    LEFT JOIN present_lists AS own_lists ON own_lists.image_id = own_image_id
)
SELECT evaluation_id, direction, query_id, wanted_id, verdict.kind AS kind, verdict.detail AS detail FROM classified;

-- The kinds of all failed queries (see failure_kinds_of).
CREATE OR REPLACE VIEW failure_kinds AS FROM failure_kinds_of(NULL);
