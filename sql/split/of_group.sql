-- What carries this name already: a data set, or the splits of a group.
SELECT 'data set' AS kind, name, NULL AS drawn_from FROM datasets WHERE name = $name
UNION ALL
SELECT 'split', name, drawn_from FROM splits WHERE split_part(name, '/', 1) = $name
ORDER BY ALL;
