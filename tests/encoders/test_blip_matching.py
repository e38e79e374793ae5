"""Matching scores equal those of transformers' forward pass with BLIP's recipe, one pair at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blip_folder import VOCABULARY, write_random_blip, write_tokenizer
from numpy.typing import NDArray

from clipstore.encoders.blip_matching import MAX_TOKENS, BlipMatcher, encoder_token
from clipstore.encoders.loading import load_model
from clipstore.encoders.matching_fingerprint import fingerprint_matching
from clipstore.errors import ModelError
from clipstore.records import Model
from clipstore.store.matching import check_reranker

TEXTS = [
    "a dog on the street",
    "",
    "two red circles",
    "A MAN with a dog; the [SEP] token, and [ENC] [CLS]",
    " ".join(["two blue squares on the street"] * 20),
    "a",
]
ENC = len(VOCABULARY) + 1


def model_of(folder: Path, **settings: Any) -> Model:
    return Model(name="b", family="blip", base=str(folder), **settings)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip") / "b"
    write_random_blip(folder)
    return folder


@pytest.fixture
def matcher(blip: Path) -> BlipMatcher:
    return BlipMatcher(load_model(model_of(blip)))


def images(count: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@torch.inference_mode()
def plain_score(matcher: BlipMatcher, pixels: NDArray[np.uint8], ids: list[int], *, length: int = MAX_TOKENS) -> float:
    """The logit of class 1 by transformers' own forward pass, padded to `length`, the image encoded for this pair."""
    settings, padding = matcher.preprocessing, length - len(ids)
    values = pixels.astype(np.float32) * np.float32(settings.scale)
    values = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    output = matcher._blip(
        input_ids=torch.tensor([[*ids, *[0] * padding]]),
        attention_mask=torch.tensor([[1] * len(ids) + [0] * padding]),
        pixel_values=torch.from_numpy(values).permute(2, 0, 1)[None],
    )
    return float(output.itm_score[0, 1])


def published_ids(matcher: BlipMatcher, text: str) -> list[int]:
    """Token ids as BLIP's evaluation makes them: truncated to 35 tokens, the first one replaced by [ENC]."""
    ids = matcher._tokenizer(text, truncation=True, max_length=35)["input_ids"]
    return [ENC, *ids[1:]]


def test_scores_equal_transformers_pair_by_pair(matcher: BlipMatcher) -> None:
    texts = [text for text in TEXTS if "[" not in text]
    ids = matcher.tokenize(texts)
    assert ids == [published_ids(matcher, text) for text in texts]
    assert max(map(len, ids)) == MAX_TOKENS
    for pixels in images():
        expected = [plain_score(matcher, pixels, text) for text in ids]
        assert matcher.scores(matcher.encode_image(pixels), ids) == pytest.approx(expected, abs=1e-5)
        assert np.ptp(expected) > 1e-2  # the texts have different scores


def test_scores_do_not_depend_on_the_batch(matcher: BlipMatcher) -> None:
    """Alone, in any batch and order, and with any padding: masked padding changes nothing."""
    ids, image = matcher.tokenize(TEXTS), matcher.encode_image(images()[0])
    together = matcher.scores(image, ids)
    alone = np.concatenate([matcher.scores(image, [text]) for text in ids])
    assert alone == pytest.approx(together, abs=1e-5)
    assert matcher.scores(image, ids[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    padded = [plain_score(matcher, images()[0], text, length=60) for text in ids]
    assert padded == pytest.approx(together, abs=1e-5)


def test_special_tokens_in_a_text_are_plain_text(matcher: BlipMatcher) -> None:
    (ids,) = matcher.tokenize([TEXTS[3]])
    special = {ENC, *(VOCABULARY.index(token) for token in ("[SEP]", "[CLS]"))}
    assert [token for token in ids if token in special] == [ENC, VOCABULARY.index("[SEP]")]


@pytest.mark.parametrize("wrong", ["[CLS]", "[DEC]", "[MASK]"])
def test_another_first_token_gives_other_scores(matcher: BlipMatcher, wrong: str) -> None:
    """The recipe is tested by the one thing that transformers' own pipeline gets wrong."""
    token = len(VOCABULARY) if wrong == "[DEC]" else VOCABULARY.index(wrong)
    ids, image = matcher.tokenize(TEXTS), matcher.encode_image(images()[0])
    changed = np.abs(matcher.scores(image, ids) - matcher.scores(image, [[token, *text[1:]] for text in ids]))
    assert changed.max() > 1e-3


def test_bf16_is_near_fp32(blip: Path, matcher: BlipMatcher) -> None:
    rounded = BlipMatcher(load_model(model_of(blip)), precision="bf16")
    ids = matcher.tokenize(TEXTS)
    exact, near = (one.scores(one.encode_image(images()[0]), ids) for one in (matcher, rounded))
    assert 0 < np.abs(exact - near).max() < 0.05 * max(1.0, float(np.abs(exact).max()))


class Words:
    """A tokenizer of so many words, some of which are added ones with these ids."""

    def __init__(self, words: int, **added: int) -> None:
        self._words, self._added = words, added

    def __len__(self) -> int:
        return self._words

    def get_vocab(self) -> dict[str, int]:
        return {f"[{token}]": number for token, number in self._added.items()}


class Settings:
    """A text configuration."""

    def __init__(self, start: int | None, size: int) -> None:
        self.bos_token_id, self.vocab_size = start, size


@pytest.mark.parametrize(
    ("tokenizer", "settings"),
    [
        (
            Words(30522),
            Settings(30522, 30524),
        ),  # the published conversion: BERT's tokenizer
        (Words(30524, DEC=30522, ENC=30523), Settings(30522, 30524)),  # the tokens of BLIP's own `init_tokenizer`
    ],
)
def test_the_encoder_token_is_that_of_the_checkpoint(tokenizer: Words, settings: Settings) -> None:
    assert encoder_token(tokenizer, settings) == 30523


@pytest.mark.parametrize(
    ("tokenizer", "settings"),
    [
        (Words(30522), Settings(30522, 30523)),  # no embedding of [ENC]
        (Words(30522), Settings(101, 30524)),  # [DEC] is not behind the words
        (Words(30522), Settings(None, 30524)),
        (Words(30521), Settings(30522, 30524)),  # another tokenizer
        (Words(30524, DEC=30523, ENC=30522), Settings(30522, 30524)),  # the other way round
        (Words(30600, ENC=30599), Settings(30522, 30524)),
        (Words(30525, DEC=30522, ENC=30523), Settings(30522, 30524)),  # a further token, without an embedding
    ],
)
def test_a_tokenizer_and_a_configuration_that_do_not_fit_are_refused(tokenizer: Words, settings: Settings) -> None:
    with pytest.raises(ModelError, match=r"\[ENC\].*use the tokenizer and the configuration"):
        encoder_token(tokenizer, settings)


def test_a_tokenizer_with_the_token_is_used(blip: Path, matcher: BlipMatcher, tmp_path: Path) -> None:
    shutil.copytree(blip, tmp_path / "b")
    write_tokenizer(tmp_path / "b", added={"[DEC]": ENC - 1, "[ENC]": ENC})
    other = BlipMatcher(load_model(model_of(tmp_path / "b")))
    texts = [text for text in TEXTS if "[" not in text]
    assert other.encoder_token == ENC
    assert other.tokenize(texts) == matcher.tokenize(texts)


def test_a_text_encoder_without_cross_attention_is_refused(blip: Path, tmp_path: Path) -> None:
    shutil.copytree(blip, tmp_path / "b")
    file = tmp_path / "b" / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["is_decoder"] = False
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cross-attention"):
        BlipMatcher(load_model(model_of(tmp_path / "b")))


def test_other_families_have_no_matching_head() -> None:
    with pytest.raises(ModelError, match="no matching head: rerank with a model of the family blip"):
        check_reranker(Model(name="demo", family="clip", base="bundled:demo"))


# ---- the fingerprint ----


def _changed_weight(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[0] += 1
    save_file(tensors, file)


def _edit(folder: Path, file: str, key: str, value: object) -> None:
    settings = json.loads((folder / file).read_text())
    table = settings
    *parents, last = key.split(".")
    for parent in parents:
        table = table[parent]
    table[last] = value
    (folder / file).write_text(json.dumps(settings))


WEIGHTS = [
    "itm_head.weight",
    "text_encoder.encoder.layer.1.crossattention.self.value.weight",
    "text_encoder.embeddings.word_embeddings.weight",
    "vision_model.encoder.layers.0.mlp.fc1.weight",
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_change_the_fingerprint(blip: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(blip, tmp_path / "b")
    assert fingerprint_matching(model_of(tmp_path / "b"), "fp32") == fingerprint_matching(model_of(blip), "fp32")
    _changed_weight(tmp_path / "b", name)
    assert fingerprint_matching(model_of(tmp_path / "b"), "fp32") != fingerprint_matching(model_of(blip), "fp32")


@pytest.mark.parametrize("name", ["vision_proj.weight", "text_proj.bias"])
def test_contrastive_heads_do_not_change_the_fingerprint(blip: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(blip, tmp_path / "b")
    _changed_weight(tmp_path / "b", name)
    assert fingerprint_matching(model_of(tmp_path / "b"), "fp32") == fingerprint_matching(model_of(blip), "fp32")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "text_config.num_attention_heads", 2),
        ("config.json", "vision_config.layer_norm_eps", 1e-3),
        ("preprocessor_config.json", "resample", 2),
        ("tokenizer_config.json", "do_lower_case", False),
    ],
)
def test_settings_change_the_fingerprint(blip: Path, tmp_path: Path, file: str, key: str, value: object) -> None:
    shutil.copytree(blip, tmp_path / "b")
    _edit(tmp_path / "b", file, key, value)
    assert fingerprint_matching(model_of(tmp_path / "b"), "fp32") != fingerprint_matching(model_of(blip), "fp32")


def test_settings_of_the_model_change_the_fingerprint(blip: Path) -> None:
    models = [
        model_of(blip),
        model_of(blip, prompt="a photo of {}"),
        model_of(blip, clean=True),
        model_of(blip, exif_orientation=True),
    ]
    heads = [fingerprint_matching(model, "fp32") for model in models]
    heads.append(fingerprint_matching(models[0], "bf16"))
    assert len({head.fingerprint for head in heads}) == len(heads)
