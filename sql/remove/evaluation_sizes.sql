-- How many evaluations, ranks and hits go with some evaluations.
SELECT
    (SELECT count(*) FROM evaluations WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS evaluations,
    (SELECT count(*) FROM ranks WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS ranks,
    (SELECT count(*) FROM hits WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS hits;
