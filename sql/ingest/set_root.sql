-- Where the data set was ingested from last.
UPDATE datasets SET root = $root, kind = $kind WHERE name = $name AND (root, kind) IS DISTINCT FROM ($root, $kind);
