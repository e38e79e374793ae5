-- The extensions that are loaded and are no part of DuckDB itself.
SELECT extension_name FROM duckdb_extensions() WHERE loaded AND install_mode != 'STATICALLY_LINKED' ORDER BY extension_name;
