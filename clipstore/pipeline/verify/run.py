"""`clipstore verify`: check shards, other files and the catalog; with `repair`, set aside what is damaged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import nullcontext

from clipstore.catalog import Session
from clipstore.errors import VerificationError
from clipstore.hints import embed_command
from clipstore.pipeline.verify.files import check_files
from clipstore.pipeline.verify.findings import HARMLESS, Finding
from clipstore.pipeline.verify.repair import repair_findings
from clipstore.pipeline.verify.scores import check_scores
from clipstore.pipeline.verify.shards import add_items, check_shards
from clipstore.progress import Progress, no_progress
from clipstore.records import IMPORTED, Row
from clipstore.store.consistency import contradictions
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock


def verify(store: Store, *, repair: bool = False, on_progress: Progress = no_progress) -> Row:
    """Check everything that a store holds.

    Of each registered shard: its checksum, layout, fingerprint and size against the catalog, its content keys, and that
    its rows are finite and of unit length. Of each score shard: its checksum and layout. Of the other files: shards
    that are not registered, temporary files, adapters and checkpoints. Of the catalog: the statements of
    sql/consistency.sql.

    With `repair`, damaged shards are moved to quarantine/ and unregistered, so that the next `embed` computes them
    again; imported vectors have to be imported again.

    Returns "shards", "vectors", "score_shards", "scores" and "bytes" (what is registered), "problems" (`Finding.row` of
    each), "remedies" (commands to run), "coverage" (items and vectors of each split and model), "repaired" (whether).

    Raises:
        NotFoundError: there is no store.
        CatalogError: the catalog is damaged.
        ShardError: with `repair`, another process is writing shards.
    """
    with shard_removal_lock(store) if repair and store.catalog.path.exists() else nullcontext():
        with store.catalog.read() as session:
            contradictions = list(_check_catalog(session))
            listed = session.rows("verify/shards")
            score_shards = session.rows("rerank/shards", fingerprint=None)
        findings = list(check_shards(store, on_progress))
        add_items(store, findings)
        findings += check_scores(store, score_shards, on_progress)
        findings += check_files(store)
        findings += contradictions
        remedies = _remedies(store, findings)
        if repair:
            repair_findings(store, findings)
    with store.catalog.read() as session:
        coverage = session.rows("verify/coverage")
    return {
        "store": str(store.root),
        "shards": len(listed),
        "vectors": sum(row["items"] for row in listed),
        "score_shards": len(score_shards),
        "scores": sum(row["pairs"] for row in score_shards),
        "bytes": sum(row["bytes"] for row in [*listed, *score_shards]),
        "problems": [finding.row() for finding in findings],
        "remedies": remedies,
        "coverage": coverage,
        "repaired": repair,
    }


def check_sound(result: Row) -> None:
    """Check that a verification found no problem that is left.

    Raises:
        VerificationError: with the number of problems.
    """
    left = [row for row in result["problems"] if row["kind"] not in HARMLESS and not row["repaired"]]
    if left:
        shards = any(row["kind"] in ("missing", "damaged", "ids", "scores") for row in left)
        hint = (
            ": 'clipstore verify --repair' moves damaged shards to quarantine" if shards else ", which need attention"
        )
        message = f"{len(left)} problem{'s' if len(left) > 1 else ''} in {result['store']}{hint}"
        raise VerificationError(message)


def _check_catalog(session: Session) -> Iterator[Finding]:
    """Read all of the catalog, and find the rows that contradict others."""
    session.rows("verify/read_tables")
    for row in contradictions(session):
        problem = f"{row['problem']}: {row['rows']} rows, for example {row['example']}"
        yield Finding(kind="catalog", table=row["table"], problem=problem)


def _remedies(store: Store, findings: list[Finding]) -> list[str]:
    """The commands that make the vectors of damaged and missing shards again, in the order of the models."""
    commands: dict[str, None] = {}
    with store.catalog.read() as session:
        for fingerprint in dict.fromkeys(finding.fingerprint for finding in findings if finding.shard_id is not None):
            for row in session.rows("verify/models", fingerprint=fingerprint)[:1]:
                imported = row["family"] == IMPORTED
                again = f"clipstore import {row['name']} (imported vectors cannot be computed again)"
                commands[again if imported else embed_command(row["name"])] = None
        heads = {row["fingerprint"]: row["model"] for row in session.rows("rerank/models")}
    rerankers = dict.fromkeys(heads.get(finding.fingerprint or "") for finding in findings if finding.score_file)
    return [*commands, *(shlex.join(["clipstore", "rerank", "--model", model]) for model in rerankers if model)]
