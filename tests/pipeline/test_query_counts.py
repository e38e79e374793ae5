"""The number of queries in every table and its JSON; too few queries of eccv or cxc are an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from clipstore.datasets.extended import extended_positives
from clipstore.protocols import PROTOCOLS

MIN_QUERIES = PROTOCOLS["eccv"].min_queries

Run = Callable[..., Result]
RunJson = Callable[..., Any]


@pytest.fixture
def eccv(cli: Run, import_vectors: Run, tmp_path: Path) -> Callable[[int], None]:
    """Ingest coco/test with a number of image queries of ECCV Caption, and a caption query for each."""
    pytest.importorskip("eccv_caption")
    to_text, to_image = extended_positives("eccv")
    caption_of = dict(zip(to_image["image"].to_pylist(), to_image["caption"].to_pylist(), strict=True))
    both = [image for image in dict.fromkeys(to_text["image"].to_pylist()) if image in caption_of]
    rng = np.random.default_rng(5)

    def run(count: int) -> None:
        pairs = list({caption_of[image]: image for image in both}.items())[:count]
        images = [
            {
                "filename": f"{image}.jpg",
                "split": "test",
                "cocoid": int(image),
                "sentences": [{"raw": f"caption {caption}", "sentid": int(caption)}],
            }
            for caption, image in pairs
        ]
        (tmp_path / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": images}))
        cli("ingest", "karpathy", tmp_path / "dataset_coco.json", tmp_path, "--name", "coco")
        sides = [
            dict.fromkeys(side) for side in ([row["cocoid"] for row in images], [int(caption) for caption, _ in pairs])
        ]
        for side in sides:
            side.update(zip(side, rng.normal(size=(count, 4)).astype(np.float32), strict=True))
        import_vectors("m", "coco/test", *sides)

    return run


@pytest.mark.parametrize(
    ("protocol", "count"),
    [
        ("eccv", MIN_QUERIES - 1),
        pytest.param("eccv", 1, marks=pytest.mark.full),
        pytest.param("cxc", 10, marks=pytest.mark.full),
    ],
)
def test_too_few_queries_are_an_error(
    eccv: Callable[[int], None], cli: Run, cli_json: RunJson, protocol: str, count: int
) -> None:
    eccv(count)
    words = ("eval", "--split", "coco/test", "--protocol", protocol)
    error = cli(*words, code=1).stderr
    totals = {"eccv": "1,261 image and 1,332 caption", "cxc": "5,000 image and 24,972 caption"}[protocol]
    assert f"{protocol} defines {totals} queries on Karpathy's test split" in error
    assert "--partial" in error
    measured_on = cli_json(*words, "--partial")["evaluations"][0]["measured_on"]
    counts = measured_on["image_queries"], measured_on["caption_queries"]
    assert measured_on["partial"]
    assert counts == (count, count) if protocol == "eccv" else 0 < max(counts) <= count
    assert "contains {} and {} (at least 100".format(*counts) in error
    assert "PARTIAL: queries: {} image → text, {} text → image".format(*counts) in cli(*words, "--partial").stdout


def test_queries_are_counted_in_the_table(eccv: Callable[[int], None], cli: Run) -> None:
    eccv(MIN_QUERIES)
    lines = cli("eval", "--split", "coco/test", "--protocol", "eccv").stdout.splitlines()
    titles = next(line for line in lines if "direction" in line)
    place = titles.index("queries")
    counts = [line[place:].split()[0] for line in lines if line.startswith(" m ")]
    assert counts == ["100", "100"]


def test_queries_of_each_protocol_are_counted(cli: Run, cli_json: RunJson, import_vectors: Run, tmp_path: Path) -> None:
    rows = "".join(f"{number}.jpg,this is {number} {at},{number},{number}{at}\n" for number in range(9) for at in "12")
    (tmp_path / "g.csv").write_text("image_path,caption,image_id,caption_id\n" + rows)
    cli("ingest", "csv", tmp_path / "g.csv")
    vectors = np.random.default_rng(0).normal(size=(18, 4)).astype(np.float32)
    captions = [f"{number}{at}" for number in range(9) for at in "12"]
    import_vectors("m", "g/all", dict(enumerate(vectors[:9])), dict(zip(captions, vectors, strict=True)))
    for protocol, expected in (("standard", (9, 18)), ("paired-rows", (18, 0))):
        words = ("eval", "--split", "g/all", "--protocol", protocol)
        measured_on = cli_json(*words)["evaluations"][0]["measured_on"]
        assert (measured_on["image_queries"], measured_on["caption_queries"]) == expected
        assert f"queries: {expected[0]} image → text" in cli(*words).stdout
    assert "queries: 9 image → text, 18 text → image" in cli("report", "--split", "g/all", "--format", "md").stdout
