"""The vectors of classes: means of stored text vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.errors import DatasetError, VectorError
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.summary import EmbedSummary
from clipstore.pipeline.embed.texts import embed_texts
from clipstore.pipeline.zeroshot.options import ZeroShotOptions
from clipstore.records import Model, Tower
from clipstore.shards import normalize
from clipstore.store.layout import Store
from clipstore.store.registry import gather_rows, registered_shards


@dataclass(frozen=True, kw_only=True)
class ClassVectors:
    """The vectors (C, D) of classes, float64 and of unit length, and the summary of embedding their texts."""

    vectors: NDArray[np.float64]
    summary: EmbedSummary


def class_vectors(
    store: Store, model: Model, tower: Tower, names: Sequence[str], options: ZeroShotOptions
) -> ClassVectors:
    """The vector of each class: the mean of the unit vectors of its name in each template, normalised again.

    Texts without a stored vector are embedded first, and their vectors stored (Radford et al., 2021, section 3.1.4).

    Raises:
        DatasetError: cleaning, as the model has it for captions, makes two names equal or leaves nothing of one.
        VectorError: a text has no vector, or the model has changed.
        ModelError: the model cannot be loaded.
    """
    texts = _texts(store, model, names, options.templates)
    devices = () if options.device is None else (options.device,)
    embedding = EmbedOptions(only="captions", memory=options.memory, devices=devices, on_progress=options.on_progress)
    distinct = {content: text for row in texts for content, text in row}
    summary = embed_texts(store, model, distinct, embedding)
    if summary.fingerprint != tower.fingerprint:
        message = f"{model.name} changed while its classes were embedded: run the same command again"
        raise VectorError(message)
    vectors = _stored(store, model, tower, distinct)
    stacked = [normalize(np.stack([vectors[content] for content, _ in row]), "float64") for row in texts]
    means = np.stack([rows.mean(axis=0) for rows in stacked])
    return ClassVectors(vectors=normalize(means, "float64"), summary=summary)


def _texts(store: Store, model: Model, names: Sequence[str], templates: Sequence[str]) -> list[list[tuple[str, str]]]:
    """For each class the content key and the text of its name in each template.

    A template takes the place of the model's prompt; the name is cleaned if the model cleans captions.
    """
    columns = {
        "number": range(len(names) * len(templates)),
        "name": [name for name in names for _ in templates],
        "template": [template for _ in names for template in templates],
    }
    with store.catalog.read() as session:
        session.stage(class_names=pa.table(columns))
        table = session.table("zeroshot/class_texts", clean=model.clean)
    pairs = list(zip(table["content"].to_pylist(), table["text"].to_pylist(), strict=True))
    rows = [pairs[start : start + len(templates)] for start in range(0, len(pairs), len(templates))]
    owners: dict[str, str] = {}
    for name, row in zip(names, rows, strict=True):
        text = row[0][1]
        other = owners.setdefault(text, name)
        if not text or other != name:
            fault = f"leaves nothing of the class {name!r}" if not text else f"makes {other!r} and {name!r} equal"
            message = f"the cleaning of captions by {model.name} {fault}: rename the class, or use another model"
            raise DatasetError(message)
    return rows


def _stored(store: Store, model: Model, tower: Tower, texts: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
    """The stored vectors of texts by content key.

    Raises:
        VectorError: a text has none.
    """
    with store.catalog.read() as session:
        session.stage(query_contents=pa.table({"content": pa.array(texts, pa.string())}))
        table = session.table("retrieve/stored_vectors", fingerprint=tower.fingerprint)
        registered = registered_shards(session, store, pc.unique(table["file"]).to_pylist())
    contents = table["content"].to_pylist()
    missing = [text for content, text in texts.items() if content not in set(contents)]
    if missing:
        message = (
            f"{len(missing)} texts of classes have no vector of {model.name}, such as {missing[0][:80]!r}: shorten the "
            "class or its template; 'clipstore sql \"FROM item_failures\"' lists the reasons"
        )
        raise VectorError(message)
    return dict(zip(contents, gather_rows(registered, table).astype(np.float64), strict=True))
