-- Macros for the text and the content key of items, and for ranks.

-- Whether a text has no visible character: only white space, control characters and Unicode's
-- Default_Ignorable_Code_Point (zero width, joiners, marks of direction, fillers). Equal to is_blank in
-- clipstore/captions.py.
CREATE OR REPLACE MACRO is_blank(text) AS
    regexp_full_match(
        text,
        '[\x00-\x20\x7f-\x{a0}\x{ad}\x{34f}\x{61c}\x{115f}\x{1160}\x{1680}\x{17b4}\x{17b5}\x{180b}-\x{180f}'
        '\x{2000}-\x{200f}\x{2028}-\x{202f}\x{205f}-\x{206f}\x{3000}\x{3164}\x{fe00}-\x{fe0f}\x{feff}\x{ffa0}'
        '\x{fff0}-\x{fff8}\x{1bca0}-\x{1bca3}\x{1d173}-\x{1d17a}\x{e0000}-\x{e0fff}]*'
    );

-- A text with each run of white space, as Python's str.split defines it, replaced by one blank, and none at the ends.
CREATE OR REPLACE MACRO fold_spaces(text) AS
    trim(regexp_replace(
        text,
        '[\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+',
        ' ', 'g'
    ));

-- A cleaned caption (`clean = true` of a job, `ingest --clean`): lower case, white space folded, only [a-z0-9 .,'].
CREATE OR REPLACE MACRO clean_caption(caption) AS
    trim(regexp_replace(regexp_replace(fold_spaces(lower(caption)), '[^a-z0-9 .,'']', '', 'g'), ' +', ' ', 'g'));

-- The words of a caption in lower case, separated by white space: Python's text.lower().split().
CREATE OR REPLACE MACRO caption_words(caption) AS
    list_filter(
        regexp_split_to_array(
            lower(caption),
            '[\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+'
        ),
        lambda word: word != ''
    );

-- The words of a caption in lower case without punctuation, in order.
CREATE OR REPLACE MACRO caption_tokens(caption) AS regexp_extract_all(lower(caption), '[\p{L}\p{N}'']+');

-- A word without the ending of an English plural, by rules of thumb: compare it only with other results of this macro.
CREATE OR REPLACE MACRO singular(word) AS
    CASE
        WHEN NOT ends_with(word, 's') OR right(word, 2) IN ('ss', 'us', 'is') THEN word
        WHEN right(word, 4) IN ('ches', 'shes', 'sses') OR ends_with(word, 'xes') THEN word[:-3]
        WHEN ends_with(word, 'ies') AND len(word) > 4 THEN word[:-4] || 'y'
        ELSE word[:-2]
    END;

-- A caption, cleaned if `clean` is true.
CREATE OR REPLACE MACRO cleaned_if(caption, clean) AS
    CASE WHEN clean THEN clean_caption(caption) ELSE caption END;

-- The text that a model encodes: the caption, cleaned if `clean`, within the prompt. A blank caption gives an empty text.
CREATE OR REPLACE MACRO model_text(caption, prompt, clean) AS
    CASE WHEN is_blank(cleaned_if(caption, clean)) THEN ''
        ELSE replace(coalesce(prompt, '{}'), '{}', cleaned_if(caption, clean))
    END;

-- The content key of an image with an imported vector. Imported vectors belong to the item, not to its image file or
-- text, so the key is computed from names. Source ids alone are ambiguous: each annotation file numbers its own items.
CREATE OR REPLACE MACRO imported_image(dataset, file_name) AS
    sha256(concat_ws('/', dataset, 'image', file_name));

-- The content key of a caption with an imported vector.
CREATE OR REPLACE MACRO imported_caption(dataset, file_name, source_id) AS
    sha256(concat_ws('/', dataset, 'caption', file_name, source_id));

-- Recall@k of one query: the probability that one of the tied positives is among the first k places.
--
-- Of `tied` candidates after n_greater better ones, s = k - n_greater (at most all) are among the first k. None of the
-- positives is among them with the hypergeometric probability C(tied - tied_positives, s) / C(tied, s), which is the
-- product over i < s of (tied - tied_positives - i) / (tied - i).
CREATE OR REPLACE MACRO hit_chance(k, n_greater, tied, tied_positives) AS
    CASE
        WHEN n_greater >= k THEN 0.0
        WHEN n_greater + tied <= k OR tied = tied_positives THEN 1.0
        ELSE 1.0 - list_product(list_transform(
            range(k - n_greater),
            lambda i: greatest(tied - tied_positives - i, 0)::DOUBLE / (tied - i)
        ))
    END;

-- H(high) - H(low) of the harmonic numbers, to the precision of a double: the terms up to 16 are added one by one, the
-- rest by H(n) = ln(n + 1/2) + gamma + 1 / (24 (n + 1/2)^2) - ..., with the difference of the logarithms as an inverse
-- hyperbolic tangent, which avoids cancellation.
CREATE OR REPLACE MACRO harmonic_tail(n) AS
    1 / (24 * (n + 0.5) ** 2) - 7 / (960 * (n + 0.5) ** 4) + 31 / (8064 * (n + 0.5) ** 6)
        - 127 / (30720 * (n + 0.5) ** 8) + 511 / (67584 * (n + 0.5) ** 10);

CREATE OR REPLACE MACRO harmonic_difference(low, high) AS
    coalesce(list_sum(list_transform(range(low + 1, least(high, 16) + 1), lambda term: 1 / term)), 0)
        + CASE WHEN high <= 16 THEN 0
            ELSE 2 * atanh((high - greatest(low, 16)) / (high + greatest(low, 16) + 1))
                + harmonic_tail(high::DOUBLE) - harmonic_tail(greatest(low, 16)::DOUBLE)
        END;

-- The number of downward steps that reach E(tied_positives): see reciprocal_rank.
CREATE OR REPLACE MACRO downward_steps(n_greater, tied, tied_positives) AS
    least(
        tied - tied_positives,
        CASE WHEN n_greater = 0 THEN tied ELSE ceil(37 / ln((n_greater + tied) / tied)) END
    )::BIGINT;

-- The reciprocal rank of one query: the mean of 1 / (n_greater + R) over all orders of its tie. R is the place of the
-- first of tied_positives positives among `tied` candidates that tie after n_greater better ones.
--
-- With g, T and p for the three and N = g + T, let E(p) be that mean. From P(R = r) = C(T - r, p - 1) / C(T, p) follows
--   E(p) = ((N - p + 2) E(p - 1) - 1) p / ((p - 1) (T - p + 1)),   E(1) = (H(N) - H(g)) / T,   E(T) = 1 / (g + 1).
-- Downwards in p each step multiplies an error by less than T / N, so after 37 / ln(N / T) steps, or from p = T on, the
-- result does not depend on the initial value (e^-37 is below the precision of a double). Upwards each step magnifies
-- rounding by about N / T: this direction is used only if the other needs more than 8 p steps, which implies that
-- ln(N / T) is below 37 / (8 p) and that the rounding of all p steps stays within a factor of about 100 p. Compared with
-- exact fractions (tests/pipeline/test_mrr.py) the relative error is below 1e-12, for ties of a million too, and no query
-- takes more than about 8 p steps.
CREATE OR REPLACE MACRO reciprocal_rank(n_greater, tied, tied_positives) AS
    CASE
        WHEN tied = tied_positives THEN 1 / (n_greater + 1)
        WHEN downward_steps(n_greater, tied, tied_positives) <= greatest(64, 8 * tied_positives) THEN list_reduce(
            list_transform(
                range(downward_steps(n_greater, tied, tied_positives)),
                lambda step: (tied_positives + downward_steps(n_greater, tied, tied_positives) - step)::DOUBLE
            ),
            lambda above, place: (1 + above * (place - 1) * (tied - place + 1) / place) / (n_greater + tied - place + 2),
            1 / (n_greater + (tied + 1) / (tied_positives + downward_steps(n_greater, tied, tied_positives) + 1))
        )
        ELSE list_reduce(
            list_transform(range(2, tied_positives + 1), lambda step: step::DOUBLE),
            lambda below, place: ((n_greater + tied - place + 2) * below - 1) * place / ((place - 1) * (tied - place + 1)),
            harmonic_difference(n_greater, n_greater + tied) / tied
        )
    END;

-- The digest of a split: SHA-256 of the source ids of its images and captions and of the captions' texts, in order. Pass a
-- column with its table's name (evaluations.split_id): the macro would resolve a bare split_id itself.
CREATE OR REPLACE MACRO split_digest_of(target_split) AS (
    SELECT sha256(coalesce(string_agg(
        concat_ws(chr(31), images.source_id, captions.source_id, captions.text), chr(30)
        ORDER BY split_images.position, captions.position, captions.source_id), ''))
    FROM split_images
    JOIN images USING (image_id)
    LEFT JOIN captions USING (image_id)
    WHERE split_images.split_id = target_split
);

-- The k-occurrence from which an item is a hub: far more than random retrieval would give.
--
-- Random retrieval puts an item into a query's k places of N with probability k / N, so over Q queries its k-occurrence
-- is binomial with mean m = Q k / N. By Bernstein's inequality it reaches m + t with probability at most
-- exp(-t^2 / (2 (m + t / 3))). This equals 1 / (100 N), so that at most one gallery in a hundred has such an item by
-- chance (Bonferroni), for t = L / 3 + sqrt(L^2 / 9 + 2 m L) with L = ln(100 N). For large m this threshold is only
-- slightly above the mean, where an item does no harm: so three times the mean is required too.
CREATE OR REPLACE MACRO hub_threshold(mean, items) AS
    greatest(3 * mean, mean + ln(100 * items) / 3 + sqrt(ln(100 * items) ** 2 / 9 + 2 * mean * ln(100 * items)));
