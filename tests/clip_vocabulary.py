"""CLIP's own tokenizer files, from the wheel of open_clip_torch, which pip downloads once per machine."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from itertools import islice
from pathlib import Path

_WHEEL = "open_clip_torch==3.3.0"  # contains the vocabulary of OpenAI's CLIP
_MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def write_clip_tokenizer(folder: Path) -> Path:
    """Write vocab.json, merges.txt and tokenizer_config.json as OpenAI's to `folder`; returns the folder.

    Raises:
        OSError: pip cannot download the wheel.
    """
    with gzip.open(_vocabulary(), "rt", encoding="utf-8") as lines:
        merges = [line.split() for line in islice(lines, 1, _MERGES + 1)]
    characters = _byte_characters()
    endings = [f"{character}</w>" for character in characters]
    tokens = [*characters, *endings, *("".join(pair) for pair in merges), _BOS, _EOS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    lines_of_merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    (folder / "merges.txt").write_text(lines_of_merges + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace",
        "bos_token": _BOS, "eos_token": _EOS, "unk_token": _EOS, "pad_token": _EOS,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _vocabulary() -> Path:
    """The file of byte pairs in the wheel, cached in the folder for temporary files."""
    cached = Path(tempfile.gettempdir()) / "clipstore-vocabulary" / Path(_MEMBER).name
    if not cached.exists():
        cached.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _WHEEL]
            completed = subprocess.run(command, capture_output=True, text=True, check=False)
            wheel = next(Path(folder).glob("*.whl"), None)
            if wheel is None:
                message = f"pip cannot download {_WHEEL}: {completed.stderr.strip()[-200:]}"
                raise OSError(message)
            Path(zipfile.ZipFile(wheel).extract(_MEMBER, folder)).replace(cached)
    return cached


def _byte_characters() -> list[str]:
    """A printable character for every byte, in the order of CLIP's vocabulary (bytes_to_unicode in its source)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, plain), *(chr(256 + number) for number in range(256 - len(plain)))]
