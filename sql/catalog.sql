-- Statements of the catalog itself: its format, and what DuckDB may reach.

-- name: begin_read_only
-- Begin a transaction that cannot write, on a connection that could.
BEGIN TRANSACTION READ ONLY;

-- name: delete_stamp
-- Forget what made this catalog.
DELETE FROM store_format;

-- name: format
-- The format of this catalog, and what made it.
FROM store_format;

-- name: has_format
-- Has this catalog a format yet?
SELECT 1 FROM information_schema.tables WHERE table_name = 'store_format';

-- name: loaded_extensions
-- The extensions that are loaded and are no part of DuckDB itself.
SELECT extension_name FROM duckdb_extensions() WHERE loaded AND install_mode != 'STATICALLY_LINKED' ORDER BY extension_name;

-- name: network_settings
-- Whether DuckDB may install and load extensions by itself, as reading from the network makes it do.
SELECT
    current_setting('autoinstall_known_extensions') AS autoinstall,
    current_setting('autoload_known_extensions') AS autoload;

-- name: no_python_variables
-- A name in a statement is a table or a view, never a variable of the Python code that runs it.
SET python_enable_replacements = FALSE;

-- name: set_autoinstall
-- Let DuckDB install extensions by itself, or not.
SET autoinstall_known_extensions = $value;

-- name: set_autoload
-- Let DuckDB load extensions by itself, or not.
SET autoload_known_extensions = $value;

-- name: stamp
-- Note the format of a catalog, and the digest of what made it.
INSERT INTO store_format VALUES ($version, $digest);
