"""`clipstore compare`: models against a baseline, over the same queries, from the ranks in the catalog."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore import choices
from clipstore.catalog import Session
from clipstore.errors import ComparisonError
from clipstore.records import Row
from clipstore.significance import Estimates, Method, Paired, estimate, holm
from clipstore.store.layout import Store, split_id
from clipstore.store.models import find_model, model_name
from clipstore.store.probes import unchecked_warnings

_DIRECTIONS = ("image_to_text", "text_to_image")
_METRICS = ("recall@1", "recall@5", "recall@10", "mrr", "mean_rank")
_LOWER_IS_BETTER = ("mean_rank",)

# What evaluations must share to be compared, in words, with the way to have it so.
_EMBED = "embed what is missing (photos and captions that failed: 'clipstore query item_failures'), then"
_SHARED = {
    "caption_set": ("captions", "name one set with --captions, or"),
    "partial": ("partial", "embed what is missing, then"),
    "images": ("images in the gallery", _EMBED),
    "captions": ("captions in the gallery", _EMBED),
    "gallery_digest": ("gallery", _EMBED),
}
_MEASURED_ON = (
    *("split", "split_digest", "gallery_digest", "images", "captions", "caption_set", "protocol", "unseen"),
    *("asked_images", "partial", "left_out_images", "left_out_captions"),
    *("images_without_positive", "captions_without_positive"),
)
_OF_MODEL = ("seen_images", "image_fingerprint", "text_fingerprint", "precision", "dtype")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Which evaluations to compare, as `eval` was asked for them.

    `captions` is "all", "first5" or None: those of each model's last evaluation.
    """

    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    unseen: bool = False

    def __post_init__(self) -> None:
        choices.check(self)


def compare(store: Store, names: Iterable[str], split: str, options: CompareOptions) -> Row:
    """Models against the first of `names`, as `clipstore compare --json` prints it.

    Every metric has both values, their difference, a 95 % interval, p and Holm's p over all comparisons made here, and
    a verdict by the latter: "better", "worse" or "no difference shown".

    Raises:
        NotFoundError: a model or the split has no such name.
        ComparisonError: fewer than two models, one that was not evaluated so, or evaluations of different galleries,
            captions or queries.
    """
    models = list(dict.fromkeys(model_name(store, name) for name in names))
    if len(models) < 2:
        message = f"compare holds models against the first: name another beside {' '.join(models) or 'the baseline'}"
        raise ComparisonError(message)
    with store.catalog.read() as session:
        split_id(session, split)
        found = session.rows("compare/evaluations", models=models, split=split, **asdict(options))
        measured = {row["model"]: row for row in found}
        if len(measured) == len(models):
            evaluations = [measured[name] for name in models]
            warnings = [line for one in evaluations for line in _warnings(session, one)]
            return _compared(session, evaluations, options) | {"warnings": warnings}
    missing = [name for name in models if name not in measured]
    for name in missing:
        find_model(store, name)
    message = (
        f"no such evaluation of {' and '.join(missing)} on {split}: run "
        f"'{_command(models if options.unseen else missing, split, options)}' first"
    )
    raise ComparisonError(message)


def _warnings(session: Session, evaluation: Row) -> list[str]:
    family = session.rows("model/find", name=evaluation["model"])[0]["family"]
    made = [evaluation["image_fingerprint"], evaluation["text_fingerprint"]]
    return unchecked_warnings(session, evaluation["model"], family, evaluation["split"], made)


def _command(models: Iterable[str], split: str, options: CompareOptions) -> str:
    """The command that makes the evaluations."""
    words = ["clipstore", "eval", *(word for name in models for word in ("--model", name)), "--split", split]
    if options.protocol != "standard":
        words += ["--protocol", options.protocol]
    if options.captions:
        words += ["--captions", options.captions]
    return shlex.join(words + ["--unseen"] * options.unseen)


def _compared(session: Session, evaluations: Sequence[Row], options: CompareOptions) -> Row:
    """The first evaluation against the others."""
    baseline, *others = evaluations
    for other in others:
        _check_same(session, baseline, other, options)
    paired, numbers = _paired(
        [session.table("compare/sums", evaluation_id=one["evaluation_id"]) for one in evaluations]
    )
    # Enough flips that Holm's correction leaves the least p below 0.005, however many models there are.
    method = Method(flips=max(Method.flips, 200 * len(paired.weights)))
    found = iter(_told(estimate(paired, method)))
    values = [_values(session, one) for one in evaluations]
    return {
        "baseline": baseline["model"],
        "split": baseline["split"],
        "protocol": options.protocol,
        "measured_on": {key: baseline[key] for key in _MEASURED_ON}
        | {"models": {one["model"]: {key: one[key] for key in _OF_MODEL} for one in evaluations}},
        "method": asdict(method)
        | {"clusters": len(paired.strata), "comparisons": len(paired.weights), "gallery": "held fixed"},
        "models": [
            {
                "model": other["model"],
                "differences": [
                    _difference(number, values[0][number], value[number], next(found), method) for number in numbers
                ],
                "queries": session.rows(
                    "compare/changes", baseline=baseline["evaluation_id"], model=other["evaluation_id"]
                ),
            }
            for other, value in zip(others, values[1:], strict=True)
        ],
    }


def _check_same(session: Session, baseline: Row, other: Row, options: CompareOptions) -> None:
    """Hold two evaluations to the same gallery and the same queries."""
    names = [baseline["model"], other["model"]]
    again = f"evaluate them together: '{_command(names, baseline['split'], options)}'"
    for key, (words, way) in _SHARED.items():
        if baseline[key] != other[key]:
            message = (
                f"{names[0]} and {names[1]} were not measured on the same: {words} {_said(baseline[key])} against "
                f"{_said(other[key])}; {way} {again}"
            )
            raise ComparisonError(message)
    ids = {"baseline": baseline["evaluation_id"], "model": other["evaluation_id"]}
    pairs = session.rows("compare/unpaired", **ids)[0]["pairs"]
    if pairs:
        message = f"{names[0]} and {names[1]} were not asked the same: {pairs:,} pairs count for one alone; {again}"
        raise ComparisonError(message)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]


def _paired(tables: Sequence[pa.Table]) -> tuple[Paired, list[tuple[str, str]]]:
    """The sums of several evaluations, those of the first subtracted; and the numbers of each, by direction and metric.

    Every evaluation has the same rows in the same order: images by direction.
    """
    first = tables[0]
    directions = [one for one in _DIRECTIONS if pc.any(pc.equal(first["direction"], one)).as_py()]
    asked = pc.index_in(first["direction"], value_set=pa.array(directions)).to_numpy()
    images, at = np.unique(first["image_id"].to_numpy(), return_inverse=True)
    folds = np.zeros(len(images), dtype=np.int64)
    folds[at] = first["fold"].to_numpy()
    queries = np.zeros((len(directions), 1, len(images)))
    queries[asked, 0, at] = first["queries"].to_numpy()
    sums = np.zeros((len(tables), len(directions), len(_METRICS), len(images)))
    for number, table in enumerate(tables):
        for place, metric in enumerate(_METRICS):
            sums[number, asked, place, at] = table[metric].to_numpy()
    differences = sums[1:] - sums[0]
    numbers = [(direction, metric) for direction in directions for metric in _METRICS]
    weights = [np.eye(len(numbers))]
    if len(directions) == 2:
        weights.append(np.array([[100.0 * metric.startswith("recall@") for _, metric in numbers]]))
        numbers.append(("both", "rsum"))
    paired = Paired(
        differences=differences.reshape(-1, len(images)),
        queries=np.broadcast_to(queries, differences.shape).reshape(-1, len(images)),
        strata=folds,
        weights=np.asarray(np.kron(np.eye(len(differences)), np.concatenate(weights)), dtype=np.float64),
    )
    return paired, numbers


def _values(session: Session, evaluation: Row) -> dict[tuple[str, str], float]:
    rows = session.rows("evaluate/metrics", evaluation_id=evaluation["evaluation_id"])
    return {(row["direction"], row["metric"]): row["value"] for row in rows}


def _told(found: Estimates) -> list[Row]:
    """The differences with their intervals (null: none can be had) and p-values, as the JSON has them."""
    columns = {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_holm": holm(found.p),
    }
    rows = np.stack(list(columns.values()), axis=1).tolist()
    return [{key: None if np.isnan(one) else one for key, one in zip(columns, row, strict=True)} for row in rows]


def _difference(number: tuple[str, str], baseline: float, value: float, told: Row, method: Method) -> Row:
    """One line of a comparison, with its verdict by Holm's p.

    The difference is that of the two values printed beside it, to the last digit.
    """
    direction, metric = number
    told = told | {"difference": value - baseline}
    verdict = "no difference shown"
    if told["p_holm"] < 1 - method.confidence:
        verdict = "better" if (told["difference"] > 0) != (metric in _LOWER_IS_BETTER) else "worse"
    return {"direction": direction, "metric": metric, "baseline": baseline, "value": value, **told, "verdict": verdict}
