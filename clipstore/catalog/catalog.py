"""The catalog of one store: sessions that read it, write it in one transaction, or replace it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import duckdb

from clipstore.catalog.access import Access, MemoryLimit, is_restricted
from clipstore.catalog.connection import open_connection
from clipstore.catalog.files import new_catalog_file, replaced_catalog_file
from clipstore.catalog.schema import is_current, migrate, read_stamp
from clipstore.catalog.session import Session
from clipstore.errors import CatalogError, NotFoundError
from clipstore.statements import statement


@dataclass(frozen=True)
class Catalog:
    """The catalog of one store.

    Raises (from `read`, `write` and `check_writable`):
        NotFoundError: there is no catalog at this path yet.
        CatalogError: it is damaged, was written by a newer version of clipstore, or is locked for too long
            by another process, another thread, or a connection of this process that cannot be shared.
    """

    path: Path

    @contextmanager
    def read(self, *, access: Access = Access.NONE, limit: MemoryLimit | None = None) -> Iterator[Session]:
        """Open read-only, as many processes may at once. A catalog of an earlier version is upgraded first.

        Statements reach no file beside the catalog and no network address unless `access` says so. With a
        `limit`, DuckDB takes no more memory, and temporary files beside the catalog.
        """
        if not self.path.exists():
            raise NotFoundError(self._no_store())
        with open_connection(self.path, read_only=True, access=access, limit=limit) as connection:
            stamp = read_stamp(connection, self.path)
            if stamp is None:  # in earlier versions, a first ingest that failed left a catalog without tables
                raise NotFoundError(self._no_store())
            if is_current(stamp):
                with self._reading(connection, access) as session:
                    yield session
                return
        self._upgrade()
        with (
            open_connection(self.path, read_only=True, access=access, limit=limit) as connection,
            self._reading(connection, access) as session,
        ):
            yield session

    def _reading(self, connection: duckdb.DuckDBPyConnection, access: Access) -> closing[Session]:
        return closing(Session(connection, access, file=self.path, restricted=is_restricted(connection)))

    @contextmanager
    def write(
        self, *, create: bool = False, commit: bool = True, limit: MemoryLimit | None = None
    ) -> Iterator[Session]:
        """Open for writing, in one transaction: it is committed when the block ends, and rolled back on an error.

        With `create`, a store that does not exist is created: its catalog gets its name when the block has ended, so
        that it is complete. Without `commit`, the transaction is rolled back in any case: a dry run. `limit` as for
        `read`.
        """
        exists = self.path.exists()
        if not (create or exists):
            raise NotFoundError(self._no_store())
        target = nullcontext(self.path) if exists else new_catalog_file(self.path)
        with target as file, self._transaction(file, commit=commit, limit=limit) as session:
            yield session

    @contextmanager
    def replacement(self) -> Iterator[Session]:
        """A session in an empty catalog, which replaces this one when the block ends; the former file is kept.

        It becomes catalog.duckdb.damaged-N. If the block fails, nothing changes.
        """
        with replaced_catalog_file(self.path) as file, self._transaction(file) as session:
            yield session

    def check_writable(self) -> None:
        """Check that the catalog can be written now, before long work whose result it will store."""
        with self.write(commit=False):
            pass

    @contextmanager
    def _transaction(self, file: Path, *, commit: bool = True, limit: MemoryLimit | None = None) -> Iterator[Session]:
        """A session that writes the catalog, or the temporary `file` in which it is created."""
        with open_connection(self.path, read_only=False, file=file, limit=limit) as connection:
            connection.begin()
            migrate(connection, read_stamp(connection, self.path))
            try:
                with closing(Session(connection, file=self.path, is_new=file != self.path)) as session:
                    yield session
            except BaseException:
                connection.rollback()
                raise
            if commit:
                connection.commit()
            else:
                connection.rollback()
            if file != self.path:  # so that the renamed file has no log
                connection.execute(statement("catalog/checkpoint"))

    def _upgrade(self) -> None:
        try:
            with self.write():
                pass
        except CatalogError as error:
            message = f"a catalog of another version is upgraded when it is opened, which needs write access: {error}"
            raise CatalogError(message) from error

    def _no_store(self) -> str:
        folder = self.path.parent
        if (folder / "records").is_dir() or (folder / "shards").is_dir():
            return (
                f"the store {folder} has no catalog: 'clipstore catalog rebuild' makes it again; without its records, "
                "ingest, embed and eval do, and use the stored vectors"
            )
        return f"no store at {folder}: start with 'clipstore ingest', or name another store with --store"
