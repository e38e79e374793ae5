-- Whether DuckDB may install and load extensions by itself, as reading from the network makes it do.
SELECT
    current_setting('autoinstall_known_extensions') AS autoinstall,
    current_setting('autoload_known_extensions') AS autoload;
