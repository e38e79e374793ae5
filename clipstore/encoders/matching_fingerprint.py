"""The fingerprint of a matching head: the SHA-256 of everything that decides the score of a pair.

Both towers decide a score, so the inputs are those of the fingerprints of both: the whole configuration, the
preprocessing, every tokenizer file, the prompt and cleaning of captions, the precision, the adapter, and every tensor
but those of the contrastive heads, which matching does not use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

from clipstore.encoders.fingerprint import hashed_settings
from clipstore.encoders.fingerprint_inputs import read_model_files
from clipstore.encoders.weights import TensorDigest
from clipstore.records import MatchingHead, Model, TowerPrecision

_RECIPE = "clipstore-matching-1"  # another number when the code computes other scores from the same files
_UNUSED = ("vision_proj.", "text_proj.")  # prefixes of the tensors of the contrastive heads
_TOWERS = ("text_config", "vision_config")


def fingerprint_matching(model: Model, precision: TowerPrecision, *, fetch: bool = True) -> MatchingHead:
    """The matching head of a model at a precision. Without `fetch`, nothing is downloaded.

    Raises:
        ModelError: the model's files are missing or invalid.
    """
    files = read_model_files(model, fetch=fetch)
    settings = files.settings
    inputs = (
        _RECIPE,
        (model.family, precision, model.prompt, model.clean),
        {key: value for key, value in hashed_settings(settings.config).items() if key not in _TOWERS},
        {tower: hashed_settings(config) for tower, config in settings.towers.items()},
        asdict(settings.preprocessing),
        files.tokenizer,
        _used(files.tensors),
        (files.adapter, _used(files.adapter_tensors)),
    )
    text = json.dumps(inputs, sort_keys=True, default=bytes.hex)
    return MatchingHead(fingerprint=hashlib.sha256(text.encode()).hexdigest(), precision=precision)


def _used(tensors: Iterable[TensorDigest]) -> list[TensorDigest]:
    return sorted(tensor for tensor in tensors if not tensor[0].startswith(_UNUSED))
