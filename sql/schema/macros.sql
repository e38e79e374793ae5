-- The exact text and the content key of an item, for one model.

-- The cleaning of captions that a job may ask for (`[model] clean = true`): lower case, nothing outside
-- [a-z0-9 .,'], white space folded.
CREATE OR REPLACE MACRO clean_caption(caption) AS
    trim(regexp_replace(regexp_replace(lower(caption), '[^a-z0-9\s.,'']', '', 'g'), '\s+', ' ', 'g'));

-- The words of a caption, by white space and in lower case: Python's text.lower().split(), whose white space is these.
CREATE OR REPLACE MACRO caption_words(caption) AS
    list_filter(
        regexp_split_to_array(
            lower(caption),
            '[\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+'
        ),
        lambda word: word != ''
    );

CREATE OR REPLACE MACRO cleaned_if(caption, clean) AS
    CASE WHEN clean THEN clean_caption(caption) ELSE caption END;

-- An empty caption stays empty, whatever the prompt around it.
CREATE OR REPLACE MACRO model_text(caption, prompt, clean) AS
    CASE WHEN trim(cleaned_if(caption, clean), E' \t\r\n') = '' THEN ''
        ELSE replace(coalesce(prompt, '{}'), '{}', cleaned_if(caption, clean))
    END;

-- Vectors made elsewhere belong to the item itself, whatever its photo or its wording: the key is the item's name.
-- Source ids alone would not do: each annotation file numbers its own items.
CREATE OR REPLACE MACRO imported_image(dataset, file_name) AS
    sha256(concat_ws('/', dataset, 'image', file_name));

CREATE OR REPLACE MACRO imported_caption(dataset, file_name, source_id) AS
    sha256(concat_ws('/', dataset, 'caption', file_name, source_id));

-- Recall@k of one query: the chance that one of the tied positives falls into the first k places.

-- Of `tied` candidates behind n_greater better ones, s = k - n_greater (at most all) make it into the first k. None of
-- the positives is among them with the hypergeometric chance C(tied - tied_positives, s) / C(tied, s), which is the
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

-- What a split holds, in one word: its images and captions by source id and text, in order. Give the split's column
-- with its table's name: a bare split_id would be taken for the macro's own.
CREATE OR REPLACE MACRO split_digest_of(wanted_split) AS (
    SELECT sha256(coalesce(string_agg(
        concat_ws(chr(31), images.source_id, captions.source_id, captions.text), chr(30)
        ORDER BY split_images.position, captions.position, captions.source_id), ''))
    FROM split_images
    JOIN images USING (image_id)
    LEFT JOIN captions USING (image_id)
    WHERE split_images.split_id = wanted_split
);
