"""The matching head of a model: the one recorded in the catalog, and the one of its files."""

from __future__ import annotations

from clipstore.catalog import Session
from clipstore.encoders.fingerprint import files_key
from clipstore.encoders.matching_fingerprint import fingerprint_matching
from clipstore.errors import ModelError
from clipstore.records import MatchingHead, Model, TowerPrecision
from clipstore.store.layout import Store
from clipstore.store.scores import recorded_head

FAMILIES = ("blip",)  # families of models with a matching head


def check_reranker(model: Model) -> None:
    """Refuse a model without a matching head.

    Raises:
        ModelError: the model is of another family.
    """
    if model.family not in FAMILIES:
        message = (
            f"{model.name} is of the family {model.family} and has no matching head: rerank with a model of the family "
            f"{' or '.join(FAMILIES)}"
        )
        raise ModelError(message)


def matching_head(store: Store, model: Model, precision: TowerPrecision) -> tuple[MatchingHead, str]:
    """The matching head of a model at a precision, and the key of the files that it depends on.

    The files are read only if their size or time has changed since the head was recorded.

    Raises:
        ModelError: the model has no matching head, or its files cannot be obtained or are invalid.
    """
    check_reranker(model)
    key = files_key(model, precision)
    with store.catalog.read() as session:
        row = session.row("model/find", name=model.name)
        stored = session.row("rerank/head", model_id=row["model_id"]) if row else None
    if stored and stored["files_key"] == key:
        return MatchingHead(fingerprint=stored["fingerprint"], precision=stored["precision"]), key
    return fingerprint_matching(model, precision), key


def current_head(session: Session, model: Model) -> MatchingHead | None:
    """The recorded matching head of a model; None if it has scored no pair yet, or has changed since.

    Files that were moved, copied or touched are hashed again. A model whose files are missing has not changed: its
    stored scores remain valid.

    Raises:
        ModelError: the model has no matching head.
    """
    check_reranker(model)
    row = session.row("model/find", name=model.name)
    stored = session.row("rerank/head", model_id=row["model_id"]) if row else None
    if not row or not stored:
        return None
    recorded = recorded_head(session, row["model_id"])
    try:
        key = files_key(model, stored["precision"], fetch=False)
    except ModelError:
        return recorded
    if key == stored["files_key"]:
        return recorded
    try:
        return recorded if fingerprint_matching(model, stored["precision"], fetch=False) == recorded else None
    except ModelError:
        return None
