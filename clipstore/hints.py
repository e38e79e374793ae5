"""The commands that error messages name as the remedy, quoted as a shell needs them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

RERANK_TOP = 256  # candidates of each query that are reranked by default, as BLIP published for COCO


def embed_command(model: str | Iterable[str], split: str | None = None) -> str:
    """`clipstore embed` of a model, or of several, on a split (None: on every split).

    `embed_command("demo", "coco/val2017")` is "clipstore embed --model demo --split coco/val2017".
    """
    return shlex.join(["clipstore", "embed", *_models(model), *(["--split", split] if split else [])])


def import_command(model: str, split: str) -> str:
    """`clipstore import` of vectors as a model, without the options that name the files."""
    return shlex.join(["clipstore", "import", model, "--split", split])


def eval_command(
    model: str | Iterable[str],
    split: str,
    *,
    protocol: str = "standard",
    captions: str | None = None,
    unseen: bool = False,
    reranking: tuple[str, int, float] | None = None,
) -> str:
    """`clipstore eval` of a model, of several, or of all (no models) on a split; options at their default are omitted.

    `reranking` is the reranker, its number of candidates and its weight.

    `eval_command(["a", "b"], "coco/val2017", unseen=True)` is
    "clipstore eval --model a --model b --split coco/val2017 --unseen".
    """
    words = ["clipstore", "eval", *_models(model), "--split", split]
    words += ["--protocol", protocol] if protocol != "standard" else []
    words += ["--captions", captions] if captions else []
    words += ["--unseen"] if unseen else []
    if reranking:
        reranker, top, weight = reranking
        words += ["--rerank", reranker, *_top(top)]
        words += ["--rerank-weight", repr(weight)] if weight != 1 else []
    return shlex.join(words)


def zeroshot_command(
    model: str | Iterable[str], split: str, *, labels: str | None = None, templates: str | None = None
) -> str:
    """`clipstore zeroshot` of a model, of several, or of all (no models) on a split; `templates` is a file."""
    words = ["clipstore", "zeroshot", *_models(model), "--split", split]
    words += ["--labels", labels] if labels else []
    words += ["--templates", templates] if templates else []
    return shlex.join(words)


def rerank_command(
    model: str,
    split: str,
    *,
    first: str,
    top: int = RERANK_TOP,
    protocol: str = "standard",
    captions: str | None = None,
) -> str:
    """`clipstore rerank` of the first candidates of the model `first`; options at their default are omitted."""
    words = ["clipstore", "rerank", "--model", model, "--split", split]
    words += ["--first", first] if first != model else []
    words += _top(top)
    words += ["--protocol", protocol] if protocol != "standard" else []
    words += ["--captions", captions] if captions else []
    return shlex.join(words)


def _top(top: int) -> list[str]:
    return ["--top", str(top)] if top != RERANK_TOP else []


def _models(model: str | Iterable[str]) -> list[str]:
    names = [model] if isinstance(model, str) else model
    return [word for name in names for word in ("--model", name)]
