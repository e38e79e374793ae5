"""The catalog: a DuckDB file, opened late and closed early, on which the named statements of `sql/` run.

DuckDB allows one writing process or many readers. If the file is locked, opening waits, then fails with the holder's
process id. Threads of one process wait for one another in the same way, and share the file where DuckDB allows it (see
`rwlock`), also with connections that the process made without clipstore. This package alone imports duckdb.
"""

from clipstore.catalog.access import Access, MemoryLimit
from clipstore.catalog.catalog import Catalog
from clipstore.catalog.files import check_store_path, kept_catalogs
from clipstore.catalog.schema import FORMAT_VERSION, MIGRATIONS, scratch
from clipstore.catalog.session import Session, parameters_of

__all__ = [
    "FORMAT_VERSION",
    "MIGRATIONS",
    "Access",
    "Catalog",
    "MemoryLimit",
    "Session",
    "check_store_path",
    "kept_catalogs",
    "parameters_of",
    "scratch",
]
