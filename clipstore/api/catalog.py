"""Methods of `EmbeddingStore` on the catalog and the folder as a whole."""

from __future__ import annotations

import pyarrow as pa

from clipstore.api.arguments import Parameters, ShowProgress, checked
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import Result


class CatalogMethods(StoreMethods):
    """Query the catalog, and look after the store."""

    @checked
    def sql(self, statement: str, *, allow_files: bool = False, allow_network: bool = False) -> pa.Table:
        """Run a SQL statement on the catalog, read-only.

        Args:
            statement: One statement of DuckDB's SQL.
            allow_files: Let DuckDB read and write files beside the catalog.
            allow_network: Let DuckDB install and load extensions and open network addresses; includes `allow_files`.

        Returns:
            The result as a pyarrow Table: `.to_pylist()` gives dicts, `.to_pandas()` a DataFrame.

        Raises:
            CatalogError: DuckDB refuses the statement, or another process, thread or connection holds the catalog for
                too long.
            NotFoundError: There is no store.

        Example:
            >>> store.sql("SELECT metric, value FROM metrics WHERE direction = 'text_to_image'")
        """
        from clipstore.pipeline.query import run_sql

        return run_sql(self._store, statement, allow_files=allow_files, allow_network=allow_network)

    @checked
    def query(
        self,
        name: str | None = None,
        *,
        parameters: Parameters | None = None,
        allow_files: bool = False,
        allow_network: bool = False,
    ) -> pa.Table:
        """Run a named query; without a name, list the queries.

        Args:
            name: The query.
            parameters: Values by parameter (the options -p KEY=VALUE of the command), such as {"limit": 5}.
            allow_files: Let a parameter `file` be outside the store's folder of adapters.
            allow_network: See `sql`.

        Returns:
            The result as a pyarrow Table. Where its limit left rows out, `.schema.metadata[b"total_rows"]` has their
            number without it.

        Raises:
            NotFoundError: There is no such query, parameter or value.
            CatalogError: See `sql`.

        Example:
            >>> store.query("failures", parameters={"model": "demo", "limit": 5})
        """
        from clipstore.pipeline.query import list_queries, run_query

        if name is None:
            return list_queries()
        pairs = [f"{key}={value}" for key, value in (parameters or {}).items()]
        return run_query(self._store, name, pairs, allow_files=allow_files, allow_network=allow_network)

    @checked
    def init(self, *, shards: str | None = None) -> Result:
        """Create the store, or set where its shards will be.

        Args:
            shards: The URL of a bucket and a prefix, such as "s3://bucket/prefix"; None: in the folder of the store.

        Returns:
            What `clipstore store init --json` prints: "store", "id", and "shards", None where they are in its folder.

        Raises:
            StoreError: `shards` is no such URL, cannot be used, or the store has shards elsewhere.

        Example:
            >>> store.init()["id"]
        """
        from clipstore.pipeline.init_store import init_store

        return Result(init_store(self._store, shards))

    @checked
    def info(self) -> Result:
        """Describe the store: contents, disk use and versions.

        Returns:
            What `clipstore info --json` prints: "store" (None where there is none), "folder", "format", "shards_in",
            "counts", "bytes" by folder, "models", "versions", "platform" and "format_read".

        Raises:
            CatalogError: The catalog is damaged, or made by a newer clipstore.

        Example:
            >>> store.info()["counts"]
        """
        from clipstore.pipeline.info import store_info

        return Result(store_info(self._store))

    @checked
    def rebuild_catalog(self, *, evaluate: bool = False, progress: ShowProgress = None) -> Result:
        """Make a damaged or missing catalog again, from the records in the store, the datasets' sources and the shards.

        Args:
            evaluate: Run the evaluations again too; else they are only listed.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore catalog rebuild --json` prints: "catalog", "former" (where the former catalog is kept),
            "counts", "damaged_shards", "changed_splits", "evaluations" (with the "command" and the "state" of each),
            "warnings" and "complete".

        Raises:
            CatalogError: There are no records, or a source of a dataset cannot be read; nothing has changed.
            ShardError: Another process is writing shards.

        Example:
            >>> store.rebuild_catalog(evaluate=True)["counts"]
        """
        from clipstore.pipeline.rebuild.run import rebuild_catalog

        with progress_of(progress) as display:
            return Result(rebuild_catalog(self._store, evaluate_again=evaluate, on_progress=display).row())

    @checked
    def verify(self, *, repair: bool = False, progress: ShowProgress = None) -> Result:
        """Check every shard, adapter and table of the store. Problems are returned, not raised.

        Args:
            repair: Move damaged shards to quarantine/ and unregister them, so that `embed` computes them again.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore verify --json` prints: "store", "shards", "vectors", "score_shards", "scores" and "bytes"
            (what is registered), "problems" (a row for each with "kind", "file", "table", "problem", "rows", "items"
            and "repaired"), "remedies" (commands to run), "coverage" (items and vectors of each split and model) and
            "repaired".

        Raises:
            NotFoundError: There is no store.
            CatalogError: The catalog is damaged.
            ShardError: Another process is writing shards (with `repair`).

        Example:
            >>> store.verify()["problems"]
        """
        from clipstore.pipeline.verify.run import verify

        with progress_of(progress) as on_progress:
            return Result(verify(self._store, repair=repair, on_progress=on_progress))

    @checked
    def gc(self, *, delete: bool = False) -> Result:
        """Find shards and files that nothing needs, and with `delete` remove them.

        Args:
            delete: Remove them; without it, nothing is removed.

        Returns:
            What `clipstore gc --json` prints: "deleted" (whether), "bytes" and "kinds", a row for each kind with
            "files", "rows", "bytes", "paths" and what it is.

        Raises:
            NotFoundError: There is no store.
            ShardError: Another process is writing shards (with `delete`).

        Example:
            >>> store.gc()["bytes"]
        """
        from clipstore.pipeline.gc import collect_garbage

        return Result(collect_garbage(self._store, delete=delete))
