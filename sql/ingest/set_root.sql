-- Where the data set was ingested from last.
UPDATE datasets SET root = $root WHERE name = $name AND root != $root;
