"""CLIP's own tokenizer files, and the code of OpenCLIP, from the wheel of open_clip_torch.

pip downloads the wheel once per machine.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from itertools import islice
from pathlib import Path

_WHEEL = "open_clip_torch==3.3.0"  # contains the vocabulary of OpenAI's CLIP
_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def write_clip_tokenizer(folder: Path) -> Path:
    """Write vocab.json, merges.txt and tokenizer_config.json as OpenAI's to `folder`; returns the folder.

    Raises:
        OSError: pip cannot download the wheel.
    """
    with gzip.open(open_clip_package() / _VOCABULARY, "rt", encoding="utf-8") as lines:
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


def open_clip_package() -> Path:
    """The folder of the package open_clip, cached in the folder for temporary files.

    Raises:
        OSError: pip cannot download the wheel.
    """
    cached = Path(tempfile.gettempdir()) / "clipstore-open-clip"
    if not (cached / "open_clip").is_dir():
        cached.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _WHEEL]
            completed = subprocess.run(command, capture_output=True, text=True, check=False)
            wheel = next(Path(folder).glob("*.whl"), None)
            if wheel is None:
                message = f"pip cannot download {_WHEEL}: {completed.stderr.strip()[-200:]}"
                raise OSError(message)
            zipfile.ZipFile(wheel).extractall(folder)
            with suppress(OSError):  # another process was first
                (Path(folder) / "open_clip").rename(cached / "open_clip")
    return cached / "open_clip"


def _byte_characters() -> list[str]:
    """A printable character for every byte, in the order of CLIP's vocabulary (bytes_to_unicode in its source)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, plain), *(chr(256 + number) for number in range(256 - len(plain)))]
