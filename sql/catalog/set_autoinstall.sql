-- Let DuckDB install extensions by itself, or not.
SET autoinstall_known_extensions = $value;
