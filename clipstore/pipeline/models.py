"""`clipstore model list` and `model show`: what models are, what the store has of them, and how they were evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from clipstore import choices
from clipstore.encoders.description import adapter_parameters, describe_base
from clipstore.errors import ModelError, NotFoundError, OptionError
from clipstore.records import IMPORTED, ITEM_KIND, Model, Row
from clipstore.store.evaluations import read_evaluation
from clipstore.store.layout import Store, split_id
from clipstore.store.models import list_models, show_model

_NO_DESCRIPTION: Row = dict.fromkeys(("parameters", "adapter_parameters", "input_size", "dim"))
_NO_VECTORS: Row = {"precision": None, "images": 0, "captions": 0, "failures": 0, "bytes": 0, "own_bytes": 0}


def model_table(store: Store, split: str | None = None) -> list[Row]:
    """All jobs and recorded models as `clipstore model list --json` prints them, by name.

    Beside the columns of `list_models`, a row has "parameters" (of the base, by the headers of its files),
    "adapter_parameters" (beside those), "input_size", "dim", "files_problem" (why one of these is None), "images",
    "captions" and "failures" (of the current towers), "bytes" (of the shards of the towers and the backbone) and
    "own_bytes" (of those that no other model uses), "precision", "shared_towers" (the other models with an equal tower,
    by tower), and with a split "evaluations", as `clipstore eval --json` prints them.

    Raises:
        NotFoundError: there is no such split.
    """
    rows = list_models(store)
    stored, evaluations = _stored(store, split)
    return [
        {
            **row,
            **_described(row),
            **_NO_VECTORS,
            "shared_towers": {},
            **stored.get(row["name"], {}),
            **({"evaluations": evaluations.get(row["name"], [])} if split else {}),
        }
        for row in rows
    ]


def model_description(
    store: Store,
    name: str,
    split: str | None = None,
    *,
    store_dtype: choices.StoredTypeChoice = "float32",
    measure: bool = False,
) -> Row:
    """A model as `clipstore model show --json` prints it (see `show_model`); "embedding" is the cost of a split.

    Raises:
        NotFoundError: there is no such model or split.
        ModelError: with a split: the files of the model are missing or damaged, or its vectors were imported.
        OptionError: `measure` without a split.
    """
    if measure and split is None:
        message = "--measure needs the split that is to be embedded: name it with --split"
        raise OptionError(message)
    description = show_model(store, name)
    if split is None:
        return description
    # Imported here: the modules of embedding take a second.
    from clipstore.pipeline.embed.cost import embedding_cost

    cost = embedding_cost(store, name, split, store_dtype=store_dtype, measure_time=measure)
    return description | {"embedding": cost}


def _described(row: Row) -> Row:
    """What the files of a model say of it."""
    described: Row = {**_NO_DESCRIPTION, "files_problem": None}
    if row["family"] in (None, IMPORTED):
        return described
    try:
        described |= asdict(describe_base(Model(**{name: row[name] for name in ("name", "family", "base")})))
        if row["adapter"] and not row["problem"]:  # a job that is not trained yet has no adapter
            described["adapter_parameters"] = adapter_parameters(row["adapter"])
    except ModelError as error:
        described["files_problem"] = str(error)
    return described


def _stored(store: Store, split: str | None) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """What the store has of each recorded model, and the evaluations on a split, by model."""
    evaluations: dict[str, list[Row]] = {}
    try:
        with store.catalog.read() as session:
            towers, sizes = session.rows("model/holdings_of_all"), session.rows("info/models")
            if split is not None:
                split_id(session, split)
                for row in session.rows("evaluate/stored", split=split, models=[]):
                    key = {"evaluation_id": row["evaluation_id"]}
                    model = session.rows("evaluate/model", **key)[0]["name"]  # also of a reranked evaluation
                    evaluations.setdefault(model, []).append(read_evaluation(session, **key))
    except NotFoundError:
        if split is not None:
            raise
        return {}, {}
    by_name: dict[str, Row] = {}
    for row in sizes:
        by_name[row["model"]] = {"bytes": row["shard_bytes"], "own_bytes": row["own_shard_bytes"]}
    for row in towers:
        by_name[row["model"]] |= _tower(row, towers, by_name[row["model"]])
    return by_name, evaluations


def _tower(row: Row, towers: Iterable[Row], former: Row) -> Row:
    kind = ITEM_KIND[row["tower"]]
    others = [other["model"] for other in towers if other["fingerprint"] == row["fingerprint"] and other is not row]
    shared = former.get("shared_towers", {}) | ({row["tower"]: others} if others else {})
    failures = former.get("failures", 0) + row["failures"]
    return {"dim": row["dim"], "precision": row["precision"], kind: row["vectors"]} | {
        "failures": failures,
        "shared_towers": shared,
    }
