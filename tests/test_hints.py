"""The commands that messages name."""

from __future__ import annotations

from clipstore.hints import embed_command, eval_command


def test_embed_command_names_the_model_and_the_split() -> None:
    assert embed_command("demo", "coco/val2017") == "clipstore embed --model demo --split coco/val2017"
    assert embed_command("demo") == "clipstore embed --model demo"


def test_eval_command_omits_options_at_their_default() -> None:
    assert eval_command("demo", "g/all") == "clipstore eval --model demo --split g/all"
    assert eval_command([], "g/all") == "clipstore eval --split g/all"
    assert (
        eval_command(["a", "b"], "g/all", protocol="eccv", captions="all", unseen=True)
        == "clipstore eval --model a --model b --split g/all --protocol eccv --captions all --unseen"
    )


def test_names_are_quoted_for_a_shell() -> None:
    assert embed_command("demo", "my images/all") == "clipstore embed --model demo --split 'my images/all'"
