"""The drawn dataset is well-formed and reproducible, and the bundled model works on it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPTokenizer

from clipstore.demo import pretrain
from clipstore.demo.pictures import CATEGORY_IDS, OUTLINES, SUPERCATEGORIES
from clipstore.demo.scenes import CAPTIONS, draw_dataset, draw_examples
from clipstore.demo.wordings import EVEN_SHARES, WORDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from clipstore.demo.scenes import Example

BUNDLED = Path(pretrain.__file__).parent / "model"


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    draw_dataset(root, images=40, seed=3)
    return root


def _annotations(root: Path, kind: str, split: str = "val2017") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "annotations" / f"{kind}_{split}.json").read_text())
    return loaded


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---- the dataset ----


def test_the_same_seed_gives_the_same_bytes(coco: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=40, seed=3)
    assert _files(tmp_path) == _files(coco)


def test_a_smaller_data_set_is_the_beginning_of_a_larger_one(coco: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=10, seed=3)
    for kind in ("captions", "instances"):
        larger, smaller = _annotations(coco, kind), _annotations(tmp_path, kind)
        assert larger["images"][:10] == smaller["images"]
        assert larger["annotations"][: len(smaller["annotations"])] == smaller["annotations"]
    pictures = {name: data for name, data in _files(tmp_path).items() if name.endswith(".jpg")}
    assert len(pictures) == 10
    assert pictures.items() <= _files(coco).items()


def test_splits_of_one_seed_with_disjoint_numbers_share_no_id(coco: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=5, seed=3, split="train2017", first=41)
    for kind in ("captions", "instances"):
        val, train = _annotations(coco, kind), _annotations(tmp_path, kind, "train2017")
        for part in ("images", "annotations"):
            assert not {entry["id"] for entry in val[part]} & {entry["id"] for entry in train[part]}


def test_each_seed_and_stream_has_its_own_scenes() -> None:
    streams = [(3, "demo"), (4, "demo"), (3, pretrain.STREAM)]
    drawn = [example for seed, stream in streams for example in draw_examples(20, seed=seed, stream=stream)]
    assert len({repr(example.scene) for example in drawn}) == 60


def test_every_picture_has_five_captions_and_ids_are_unique(coco: Path) -> None:
    data = _annotations(coco, "captions")
    assert len({image["id"] for image in data["images"]}) == 40
    assert len({caption["id"] for caption in data["annotations"]}) == 40 * CAPTIONS
    counts = Counter(caption["image_id"] for caption in data["annotations"])
    assert counts == {image["id"]: CAPTIONS for image in data["images"]}
    assert all(caption["caption"].strip() for caption in data["annotations"])


def test_picture_files_have_the_annotated_size(coco: Path) -> None:
    for image in _annotations(coco, "captions")["images"]:
        with Image.open(coco / "val2017" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert picture.format == "JPEG"


def test_instances_are_the_drawn_items(coco: Path) -> None:
    entries = _annotations(coco, "instances")["annotations"]
    assert len({entry["id"] for entry in entries}) == len(entries)
    drawn: Counter[tuple[int, int]] = Counter()
    for example in draw_examples(40, seed=3):
        for group in example.scene.groups:
            drawn[example.number, CATEGORY_IDS[group.shape]] += group.count
    assert Counter((entry["image_id"], entry["category_id"]) for entry in entries) == drawn


def test_boxes_are_inside_the_picture_and_cover_all_items(coco: Path) -> None:
    entries = _annotations(coco, "instances")["annotations"]
    for example in draw_examples(40, seed=3):
        boxes = [entry["bbox"] for entry in entries if entry["image_id"] == example.number]
        assert all(left >= 0 and left + width <= example.scene.width for left, _, width, _ in boxes)
        assert all(top >= 0 and top + height <= example.scene.height for _, top, _, height in boxes)
        assert not _painted_outside(example, boxes).any()


def _painted_outside(example: Example, boxes: list[list[float]]) -> NDArray[np.bool_]:
    painted: NDArray[np.bool_] = (np.asarray(example.picture) != example.scene.fill).any(axis=2)
    for left, top, width, height in boxes:
        # One more pixel on each side, for the smooth edge.
        box = painted[max(0, int(top) - 1) : int(top + height) + 2, max(0, int(left) - 1) : int(left + width) + 2]
        assert box.mean() > 0.1
        box[:] = False
    return painted


def test_areas_equal_those_of_the_outlines(coco: Path) -> None:
    names = {number: name for name, number in CATEGORY_IDS.items()}
    shares: dict[str, list[float]] = {name: [] for name in OUTLINES}
    for entry in _annotations(coco, "instances")["annotations"]:
        width, height = entry["bbox"][2:]
        shares[names[entry["category_id"]]].append(entry["area"] / (width * height))
    assert np.mean(shares["circle"]) == pytest.approx(math.pi / 4, abs=0.02)
    assert np.mean(shares["ring"]) == pytest.approx(math.pi / 4 * (1 - 0.55**2), abs=0.02)


def test_a_centre_crop_loses_no_shape() -> None:
    for example in draw_examples(40, seed=3):
        side = min(example.picture.size)
        left, top = (example.scene.width - side) / 2, (example.scene.height - side) / 2
        points = [point for item in example.scene.items for point in item.outline]
        assert all(left <= x <= left + side and top <= y <= top + side for x, y in points)


def test_categories_are_the_shapes(coco: Path) -> None:
    categories = _annotations(coco, "instances")["categories"]
    assert [category["name"] for category in categories] == list(OUTLINES)
    assert {category["supercategory"] for category in categories} == set(SUPERCATEGORIES)


# ---- the wordings ----


def test_the_wording_does_not_change_the_pictures() -> None:
    even = list(draw_examples(10, seed=3))
    ornate = list(draw_examples(10, seed=3, shares={"ornate": 1.0}))
    assert [example.scene for example in even] == [example.scene for example in ornate]
    assert all(first.captions != second.captions for first, second in zip(even, ornate, strict=True))


def test_all_wordings_are_even_in_the_data_set_and_the_last_is_rare_in_pretraining() -> None:
    assert set(EVEN_SHARES) == set(WORDINGS) == set(pretrain.SHARES)
    assert len(set(EVEN_SHARES.values())) == 1
    assert pretrain.SHARES[list(WORDINGS)[-1]] <= 0.05 * sum(pretrain.SHARES.values())


def test_a_few_scenes_have_equal_captions() -> None:
    captions = Counter(caption for example in draw_examples(600, seed=3) for caption in example.captions)
    assert 20 < sum(times for times in captions.values() if times > 1) < 600


# ---- the bundled model ----


def test_the_bundled_model_is_small_and_contains_no_path() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 4_000_000
    assert CLIPModel.from_pretrained(BUNDLED).num_parameters() <= 2_000_000
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert "/" not in (BUNDLED / name).read_text()


def test_the_bundled_tokenizer_encodes_any_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = CLIPTextConfig.from_pretrained(BUNDLED)
    assert isinstance(tokenizer, CLIPTokenizer)
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ends == (config.bos_token_id, config.eos_token_id)
    for text in ("Two red circles.", "naïve café ☕", "一颗红星", "\x00 odd \u202e"):
        first, *middle, last = tokenizer(text)["input_ids"]
        assert (first, last) == ends
        assert middle
        assert tokenizer.unk_token_id not in middle
    assert len(tokenizer("star " * 500, truncation=True)["input_ids"]) == config.max_position_embeddings


def test_the_bundled_model_is_far_above_chance_and_below_perfect() -> None:
    for recall in _recalls(BUNDLED, list(draw_examples(100, seed=11))):
        assert 0.3 < recall < 0.99  # chance: one in a hundred


def _recalls(folder: Path, examples: list[Example]) -> tuple[float, float]:
    """Recall@1 from picture to caption, and from caption to picture."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    captions = [caption for example in examples for caption in example.captions]
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    pixels = processor([example.picture for example in examples], return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image
    picture = torch.arange(len(captions)) // CAPTIONS
    to_caption = picture[logits.argmax(dim=1)] == torch.arange(len(examples))
    to_picture = logits.argmax(dim=0) == picture
    return to_caption.float().mean().item(), to_picture.float().mean().item()


# ---- pretraining ----


@pytest.mark.full
def test_pretraining_writes_a_model_that_transformers_opens(tmp_path: Path) -> None:
    result = CliRunner().invoke(pretrain.main, [str(tmp_path), "--steps", "3", "--scenes", "64"])
    assert result.exit_code == 0, result.output
    assert "step 3: loss" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in BUNDLED.iterdir()}
    assert all(0 <= recall <= 1 for recall in _recalls(tmp_path, list(draw_examples(4, seed=1))))


def test_the_loss_is_zero_for_certainty_and_log_n_for_a_guess() -> None:
    assert pretrain.contrastive_loss(100 * torch.eye(8)).item() == pytest.approx(0.0, abs=1e-6)
    assert pretrain.contrastive_loss(torch.zeros(8, 8)).item() == pytest.approx(math.log(8))
