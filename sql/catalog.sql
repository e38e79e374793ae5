-- Statements of the catalog itself: its format, and the network access of DuckDB.

-- name: begin_read_only
-- Begins a read-only transaction on a read-write connection.
BEGIN TRANSACTION READ ONLY;

-- name: checkpoint
-- Writes the log of changes into the database file.
CHECKPOINT;

-- name: delete_stamp
-- Deletes the format of the catalog.
DELETE FROM store_format;

-- name: external_access
-- Returns whether statements may reach files and the network.
SELECT current_setting('enable_external_access');

-- name: format
-- Returns the format of the catalog.
FROM store_format;

-- name: is_locked
-- Returns whether the settings are locked.
SELECT current_setting('lock_configuration');

-- name: limit_memory
-- Limits the memory of DuckDB's buffers; larger results are written to temporary files beside the catalog.
SET memory_limit = $memory;

-- name: limit_threads
-- Limits the threads of DuckDB. Each needs memory of its own, so that with many a limit of memory makes statements fail.
SET threads = 2;

-- name: lock_settings
-- Locks the settings: statements cannot change them any more.
SET lock_configuration = TRUE;

-- name: loaded_extensions
-- Returns the loaded extensions that are not part of DuckDB itself.
SELECT extension_name FROM duckdb_extensions() WHERE loaded AND install_mode != 'STATICALLY_LINKED' ORDER BY extension_name;

-- name: network_settings
-- Returns whether DuckDB may install and load extensions by itself, as network access requires.
SELECT
    current_setting('autoinstall_known_extensions') AS autoinstall,
    current_setting('autoload_known_extensions') AS autoload;

-- name: connection_settings
-- Names in statements refer to tables and views only, never to variables of the Python code; and DuckDB prints no
-- progress bar on stdout, where results go.
SET python_enable_replacements = FALSE;
SET enable_progress_bar = FALSE;

-- name: set_autoinstall
-- Allows or forbids that DuckDB installs extensions by itself.
SET autoinstall_known_extensions = $value;

-- name: set_autoload
-- Allows or forbids that DuckDB loads extensions by itself.
SET autoload_known_extensions = $value;

-- name: stamp
-- Records the format of the catalog, the digest of its schema statements, and the release of clipstore.
INSERT INTO store_format (version, schema_digest, release) VALUES ($version, $digest, $release);
