"""The devices of tests that run on every device: the CPU always, CUDA where there is one (marked gpu)."""

from __future__ import annotations

import pytest
import torch

NEEDS_CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))

every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
