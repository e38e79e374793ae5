-- Let DuckDB load extensions by itself, or not.
SET autoload_known_extensions = $value;
