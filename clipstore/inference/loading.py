"""Load the models of plans in a process that has no catalog, and check that they are the ones that were planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.fingerprint_v1 import v1_fingerprints
from clipstore.encoders.probe import Probe, check_probe
from clipstore.errors import ModelError
from clipstore.files import FileReader, read_image_file
from clipstore.inference.settings import EncodeSettings
from clipstore.records import Model, Tower
from clipstore.shards import Storage

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder

Encoders = dict[tuple[Model, str, bool], "Encoder"]  # by model, precision, and whether it is compiled


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Picklable settings from which a process builds its `EncodeSettings`.

    Attributes:
        storage: where shards are written.
        memory: device memory for the weights and batches of all models together, in bytes.
        compiled: run the model through torch.compile.
        read: reads an image file; a function of a module.
        probes: the stored probes of the tower, by its name and "backbone"; empty where the process that gives the
            settings has compared them on the same machine.
    """

    storage: Storage
    model: Model
    tower: Tower
    store_dtype: str
    memory: int
    compiled: bool = False
    read: FileReader = read_image_file
    probes: Mapping[str, Probe] = field(default_factory=dict)


def load_models(
    settings: Mapping[str, WorkerSettings],
    device: str,
    progress_of: Callable[[str], Callable[[int], None]],
    *,
    loaded: Encoders | None = None,
) -> dict[str, EncodeSettings]:
    """Load the models of some towers; settings by fingerprint. `progress_of` gives the callback of a fingerprint.

    `loaded` are the encoders of an earlier call: those that are needed again are not loaded, the others are released.

    Raises:
        ModelError: a model cannot be loaded.
    """
    encoders = loaded if loaded is not None else {}
    needed = {_key(worker): worker for worker in settings.values()}
    for key in encoders.keys() - needed.keys():
        del encoders[key]
    for key, worker in needed.items():
        if key not in encoders:
            encoders[key] = _load(worker, device)
    weights = sum(encoder.weight_bytes for encoder in encoders.values())
    return {
        fingerprint: _encode_settings(worker, encoders[_key(worker)], weights, progress_of(fingerprint))
        for fingerprint, worker in settings.items()
    }


def _key(worker: WorkerSettings) -> tuple[Model, str, bool]:
    return worker.model, worker.tower.precision, worker.compiled


def _load(worker: WorkerSettings, device: str) -> Encoder:
    from clipstore.encoders.encoder import Encoder
    from clipstore.encoders.loading import load_model

    precision = worker.tower.precision
    return Encoder(load_model(worker.model), precision=precision, device=device, compiled=worker.compiled)


def _encode_settings(
    worker: WorkerSettings, encoder: Encoder, weights: int, on_progress: Callable[[int], None]
) -> EncodeSettings:
    return EncodeSettings(
        storage=worker.storage,
        model=worker.model,
        encoder=encoder,
        store_dtype=worker.store_dtype,
        batch_tokens=encoder.batch_tokens(worker.tower.tower, worker.memory - weights),
        on_progress=on_progress,
        read=worker.read,
    )


def check_models(settings: Mapping[str, WorkerSettings], encoding: Mapping[str, EncodeSettings]) -> None:
    """Check that loaded models are those that were planned: fingerprints of their files, widths, and probes.

    Raises:
        ModelError: one differs.
    """
    for fingerprint, worker in settings.items():
        _check_files(worker)
        encoder = encoding[fingerprint].encoder
        vectors, device = encoder.probe(), encoder.device.type
        for component, stored in worker.probes.items():
            words = f"{worker.model.name}: the vectors of the {worker.tower.tower} tower"
            if component not in vectors:
                message = f"{worker.model.name} has no {component} here, whose probe is in the plan: plan again"
                raise ModelError(message)
            same_rounding = device == stored.device
            check_probe(words, worker.tower, vectors[component], stored, device, same_rounding=same_rounding)


def _check_files(worker: WorkerSettings) -> None:
    """Compare the model files of this machine with a planned tower.

    Raises:
        ModelError: they give another fingerprint or width.
    """
    model, planned = worker.model, worker.tower
    towers = fingerprint_towers(model, planned.precision)
    (tower,) = (tower for tower in towers if tower.tower == planned.tower)
    if (tower.dim, tower.features_dim) != (planned.dim, planned.features_dim):
        message = (
            f"{model.name} has {planned.tower} vectors of width {tower.dim} and features of width {tower.features_dim} "
            f"here, and {planned.dim} and {planned.features_dim} in the plan: use the same model files"
        )
        raise ModelError(message)
    here = {planned.tower: (tower.fingerprint, planned.fingerprint), "backbone": (tower.backbone, planned.backbone)}
    for component, (current, stored) in here.items():
        if current != stored and v1_fingerprints(model, planned.precision).get(component, current) != stored:
            part = f"the {component} tower" if component == planned.tower else "the image backbone"
            message = (
                f"the files of {model.name} in {model.base} are not those that were planned (fingerprint "
                f"{(current or 'none')[:12]} of {part}, planned {(stored or 'none')[:12]}): copy the model's files to "
                "this machine, or plan again"
            )
            raise ModelError(message)
