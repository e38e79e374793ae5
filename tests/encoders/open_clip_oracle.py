"""OpenCLIP's own model of a folder. Its package needs torchvision, which its vision transformers do not use."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from clip_vocabulary import open_clip_package
from safetensors.torch import load_file


def open_clip_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model that OpenCLIP builds for open_clip_config.json and open_clip_model.safetensors."""
    try:
        location = open_clip_package()
    except OSError as error:
        pytest.skip(f"no open_clip: {error}")
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = object  # type: ignore[attr-defined]
    package = ModuleType("open_clip")
    package.__path__ = [str(location)]  # without its __init__, which imports everything
    monkeypatch.setitem(sys.modules, "open_clip", package)
    module = importlib.import_module("open_clip.model")
    settings = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model = module.CLIP(**settings)
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return model.eval()
