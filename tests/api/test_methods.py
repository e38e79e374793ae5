"""Every method returns what its command prints with --json, on copies of one store."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import run_command, stale_records

import clipstore
from clipstore.api import EmbeddingStore
from clipstore.api.results import Result
from clipstore.reporting.tables import plain

Call = Callable[[EmbeddingStore], Any]

VOLATILE = ("seconds", "peak_memory", "evaluated_at", "clock", "estimate")

# A command line, and the call that does the same.
CALLS: dict[str, Call] = {
    "ingest coco scenes --name coco --split all --clean": lambda store: store.ingest_coco(
        "scenes", name="coco", split="all", clean=True
    ),
    "ingest flickr flickr --name f": lambda store: store.ingest_flickr("flickr", name="f"),
    "ingest karpathy k.json scenes": lambda store: store.ingest_karpathy(Path("k.json"), "scenes"),
    "ingest csv table.csv --images scenes": lambda store: store.ingest_csv("table.csv", images=Path("scenes")),
    "ingest sugarcrepe crepe --name c --images scenes": lambda store: store.ingest_sugarcrepe(
        "crepe", name="c", images="scenes"
    ),
    "ingest hard-negatives hard.csv": lambda store: store.ingest_hard_negatives(Path("hard.csv")),
    "ingest folder scenes --name d": lambda store: store.ingest_folder("scenes", name="d"),
    "split n --from s/all --images 10 --seed 1": lambda store: store.split("n", from_="s/all", images=10, seed=1),
    "split remove t --yes": lambda store: store.remove_split("t"),
    "dataset list": lambda store: store.datasets(),
    "dataset remove s --yes": lambda store: store.remove_dataset("s"),
    "stats --split s/all --plots plots.html": lambda store: store.stats("s/all", plots="plots.html"),
    "model add m --base bundled:demo --exif-orientation": lambda store: store.add_model(
        "m", base="bundled:demo", exif_orientation=True
    ),
    "model trained demo --split t/train --split t/val": lambda store: store.record_training(
        "demo", ["t/train", "t/val"]
    ),
    "model list": lambda store: store.models(),
    "model list --split t/val": lambda store: store.models(split="t/val"),
    "model show demo": lambda store: store.model("demo"),
    "model show demo --split t/val --store-dtype float16": lambda store: store.model(
        "demo", split="t/val", store_dtype="float16"
    ),
    "model remove other --yes": lambda store: store.remove_model("other"),
    "import n --split t/val --images images.npy --image-ids images_ids.npy --captions captions.npy "
    "--caption-ids captions_ids.npy": lambda store: store.import_vectors(
        "n",
        "t/val",
        images="images.npy",
        image_ids="images_ids.npy",
        captions=Path("captions.npy"),
        caption_ids="captions_ids.npy",
    ),
    "train --model quick": lambda store: store.train("quick"),
    "embed --model demo --model demo --split t/val --precision fp32": lambda store: store.embed(
        ("demo", "demo"), split="t/val", precision="fp32"
    ),
    "embed --model demo --precision fp32 --only captions --dry-run": lambda store: store.embed(
        "demo", precision="fp32", only="captions", dry_run=True
    ),
    "eval --split t/val": lambda store: store.evaluate(None, "t/val"),
    "eval --model demo --split t/train --protocol paired-rows --captions first5": lambda store: store.evaluate(
        "demo", "t/train", protocol="paired-rows", captions="first5"
    ),
    "eval remove --model demo --yes": lambda store: store.remove_evaluations(model="demo"),
    "compare demo other --split t/val": lambda store: store.compare(["demo", "other"], "t/val"),
    "zeroshot --model demo --split t/val --top 1 --top 2 --templates templates.txt": lambda store: store.zeroshot(
        "demo", "t/val", top=[1, 2], templates="templates.txt"
    ),
    "zeroshot remove --split t/val --yes": lambda store: store.remove_classifications(split="t/val"),
    "compare demo again --split t/val --task zeroshot": lambda store: store.compare(
        ["demo", "again"], "t/val", task="zeroshot"
    ),
    "hubness --model demo --split t/val --bank t/train --beta 5": lambda store: store.hubness(
        "demo", "t/val", bank="t/train", beta=5
    ),
    "run jobs/whole.toml": lambda store: store.run("jobs/whole.toml"),
    'sql "SELECT model, metric, value FROM metrics ORDER BY ALL"': lambda store: store.sql(
        "SELECT model, metric, value FROM metrics ORDER BY ALL"
    ),
    "query failures -p model=other -p limit=2": lambda store: store.query(
        "failures", parameters={"model": "other", "limit": 2}
    ),
    "query": lambda store: store.query(),
    "query splits": lambda store: store.splits(),
    "report --map none --split t/val --model demo": lambda store: store.report(map="none", split="t/val", model="demo"),
    "report --format tex --out table.tex": lambda store: store.report(format="tex", out="table.tex"),
    "retrieve scenes/all --text scenes --model demo --split t/val --top 2 --panel p.png": lambda store: store.retrieve(
        Path("scenes/all"), text="scenes", model="demo", split="t/val", top=2, panel="p.png"
    ),
    "export vectors --model demo --split t/val out": lambda store: store.export_vectors("demo", "t/val", "out"),
    "export csv out": lambda store: store.export_csv("out"),
    "export model demo out --merged": lambda store: store.export_model("demo", Path("out"), merged=True),
    "info": lambda store: store.info(),
    "store init": lambda store: store.init(),
    "catalog rebuild": lambda store: store.rebuild_catalog(),
    "catalog rebuild --evaluate": lambda store: store.rebuild_catalog(evaluate=True),
    "verify": lambda store: store.verify(),
    "gc": lambda store: store.gc(),
    "gc --delete": lambda store: store.gc(delete=True),
}


def stable(value: Any) -> Any:
    """A result without times and memory, which differ from run to run."""
    if isinstance(value, dict):
        return {key: stable(part) for key, part in value.items() if key not in VOLATILE}
    return [stable(part) for part in value] if isinstance(value, list) else value


def undocumented(store: EmbeddingStore, call: Call, result: Result) -> list[str]:
    """The keys that are missing in the docstrings of the method called and of the methods to which it refers."""
    (name,) = (name for name in inspect.getclosurevars(call).unbound if hasattr(store, name))
    text = inspect.getdoc(getattr(store, name)) or ""
    references = [getattr(store, other, None) for other in re.findall(r"`(\w+)`", text)]
    text += "".join(inspect.getdoc(method) or "" for method in references if method)
    return [key for key in result if f'"{key}"' not in text]


# Commands that take seconds, of which the short form of the tests runs others that use the same code.
LONG = ("report --map", "catalog rebuild --evaluate", "run ", "hubness --model demo --split t/val --bank")


@pytest.mark.parametrize(
    "command",
    [pytest.param(words, id=words, marks=pytest.mark.full if words.startswith(LONG) else ()) for words in CALLS],
)
def test_a_method_returns_what_its_command_prints(prepared: Path, place: Path, command: str) -> None:
    result = CALLS[command](clipstore.open(place / "store"))
    files = sorted(file.relative_to(place) for file in place.rglob("*"))
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(prepared, place, dirs_exist_ok=True)
    printed = json.loads(run_command(place / "store", *shlex.split(command), "--json").stdout)
    pending = ["evaluations.json"] if command == "catalog rebuild" else []  # they are still to be run
    assert stale_records(place / "store") == pending
    if isinstance(result, pa.Table):
        assert plain(result.to_pylist()) == printed
    else:
        assert stable(json.loads(json.dumps(result))) == stable(printed)
        assert isinstance(result, Result)
        assert "<table>" in result._repr_html_()
        assert undocumented(clipstore.open(place / "store"), CALLS[command], result) == []
    assert files == sorted(file.relative_to(place) for file in place.rglob("*"))


def test_evaluations_of_several_models_are_in_their_order(place: Path) -> None:
    result = clipstore.open(place / "store").evaluate(("other", "demo"), "t/val", captions="first5")
    assert [row["model"] for row in result["evaluations"]] == ["other", "demo"]
    assert result == json.loads(json.dumps(result))
