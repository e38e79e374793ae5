"""`clipstore report`: the page in a browser, and its numbers compared with the output of the commands it names."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from click.testing import CliRunner
from drawn_classes import draw_classes
from helpers import run_command
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clipstore.cli import main
from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]

CHROMIUM = shutil.which("chromium")
SPLIT = "s/all"
MODELS = ["demo", "tuned", "noisy"]

# Captions with markup.
NASTY = [
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> a \"red\" star & a moon",
    "</script><b>bold</b> <!-- \u2028 two \u2029 lines -->",
    "🦄 a 'unicorn' \u202e and a `$" + "{tick}`",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 30 synthetic scenes, some captions with markup, and three evaluated models: the bundled one, one
    fine-tuned on half of the scenes, and imported vectors.
    """
    root = tmp_path_factory.mktemp("report")
    store = root / "store"
    draw_dataset(root / "scenes", images=30, seed=7, split="all")
    file = root / "scenes" / "annotations" / "captions_all.json"
    annotations = json.loads(file.read_text())
    for row, text in zip(annotations["annotations"][::7], NASTY, strict=False):
        row["caption"] = text
    file.write_text(json.dumps(annotations))
    run_command(store, "ingest", "coco", root / "scenes", "--name", "s")
    run_command(store, "split", "t", "--from", SPLIT, "--images", 16, "--validation", 0.3)
    run_command(store, "embed", "--model", "demo")
    job = root / "tuned.toml"
    job.write_text(
        '[model]\nbase = "bundled:demo"\n[train]\nsplit = "t/train"\nvalidation = "t/val"\nprecision = "fp32"\n'
        "batch = 32\nepochs = 1\nlearning_rate = 5e-3\n[train.lora]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        (root / "jobs").mkdir()
        shutil.move(job, root / "jobs" / "tuned.toml")
        patch.chdir(root)
        run_command(store, "train", "--model", "tuned")
        run_command(store, "embed", "--model", "tuned", "--split", SPLIT)
        import_noisy(store, root)
        run_command(store, "eval", "--split", SPLIT, *(word for name in MODELS for word in ("--model", name)))
    return store


def import_noisy(store: Path, root: Path) -> None:
    """Import the vectors of the bundled model with added noise."""
    import clipstore

    rng = np.random.default_rng(3)
    words: list[object] = []
    for option, kind in (("image", "images"), ("caption", "captions")):
        ids, vectors = clipstore.open(store).vectors("demo", SPLIT, kind)
        np.save(root / f"{kind}.npy", vectors + rng.normal(0, 0.05, vectors.shape).astype(np.float32))
        np.save(root / f"{kind}_ids.npy", ids)
        words += [f"--{kind}", root / f"{kind}.npy", f"--{option}-ids", root / f"{kind}_ids.npy"]
    run_command(store, "import", "noisy", "--split", SPLIT, *words)


@pytest.fixture(scope="module")
def report(measured: Path) -> Path:
    """The report of that store."""
    run_command(measured, "report", "--split", SPLIT, "--map", "tsne")
    return measured / "reports" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's own chromium."""
    if not CHROMIUM:
        pytest.skip("no chromium here: install the system's package")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page from disk. It must log nothing, and request nothing except itself and the folder of thumbnails."""
    problems: list[str] = []
    contexts = []

    def opened(
        file: Path, state: str = "", *, width: int = 1400, scheme: Any = "light", bypass_csp: bool = False
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=bypass_csp
        )
        contexts.append(context)
        page = context.new_page()
        allowed = (file.as_uri(), (file.parent / f"{file.stem}_photos").as_uri(), "data:")
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith(allowed) or problems.append(request.url))
        page.goto(file.as_uri() + state)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def content(file: Path) -> Any:
    """The content of the page."""
    match = re.search(r'<script type="application/json" id="content">(.*?)</script>', file.read_text(), re.DOTALL)
    assert match
    return json.loads(match[1])


def draw_all_plots(page: Page) -> None:
    """Scroll to every plot, which draws it."""
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".main-svg").first).to_be_attached()


# ---- content ----


@pytest.mark.full
def test_the_commands_print_the_numbers(measured: Path, report: Path, sql: Run) -> None:
    """The rows of every section equal the results of the commands that it names."""
    count = 0

    def check(part: Any) -> None:
        nonlocal count
        if isinstance(part, list):
            for item in part:
                check(item)
        elif isinstance(part, dict):
            if "commands" in part and "rows" in part:
                rows = [
                    row
                    for command in part["commands"]
                    for row in json.loads(run_command(measured, *shlex.split(command)[1:], "--json").stdout)
                ]
                assert [{key: row[key] for key in rows[0]} for row in part["rows"]] == rows, part["commands"]
                count += len(rows)
            for value in part.values():
                check(value)

    page = content(report)
    check(page)
    assert count > 300
    (split,) = page["splits"]
    for key in ("comparison", "statistics"):
        words = [word for word in shlex.split(split[key]["commands"][0])[1:] if word != "--json"]
        result = json.loads(run_command(measured, *words, "--json").stdout)
        assert {name: split[key][name] for name in result} == result


def test_the_gallery_has_the_failed_queries_and_their_hits(measured: Path, report: Path) -> None:
    page = content(report)
    (split,) = page["splits"]
    ranks, hits = (
        json.loads(run_command(measured, *shlex.split(command)[1:], "--json").stdout)
        for command in split["queries"]["commands"]
    )
    assert any(row["kind"] for row in ranks)
    ids = {"image": page["images"]["id"], "caption": page["captions"]["id"]}
    for direction, query_kind, item_kind in (
        ("image_to_text", "image", "caption"),
        ("text_to_image", "caption", "image"),
    ):
        queries = [ids[query_kind][index] for index in split["queries"][direction]["asked"]]
        failed = {row["query_id"] for row in ranks if row["direction"] == direction and row["rank"] > 1}
        assert sorted(queries) == sorted(failed)
        for model, columns in zip(MODELS, split["queries"][direction]["models"], strict=True):
            by_query = {row["query_id"]: row for row in ranks if (row["model"], row["direction"]) == (model, direction)}
            assert columns["rank"] == [round(by_query[query]["rank"], 2) for query in queries]
            assert columns["kind"] == [by_query[query]["kind"] for query in queries]
            expected = [ids[item_kind][index] for index in columns["wanted"]]
            assert expected == [by_query[query]["wanted_id"] for query in queries]
            hits_by_query: dict[int, list[tuple[int, int]]] = {}
            for row in hits:
                if (row["model"], row["direction"]) == (model, direction):
                    hits_by_query.setdefault(row["query_id"], []).append((row["item_id"], int(row["correct"])))
            shown = [
                [(ids[item_kind][index], correct) for index, correct in zip(*row, strict=True)]
                for row in zip(columns["hits"], columns["correct"], strict=True)
            ]
            assert shown == [hits_by_query[query] for query in queries]


def test_fixed_and_broken_queries_equal_those_of_compare(measured: Path, report: Path, opened: Run) -> None:
    page = opened(report)
    for model in content(report)["splits"][0]["comparison"]["models"]:
        for row in model["queries"]:
            for change in ("fixed", "broken"):
                state = f"#show={change}&baseline=demo&model={model['model']}&direction={row['direction']}"
                page.goto(report.as_uri() + state)
                expect(page.locator("#result-count")).to_contain_text(
                    f"{row[change]} quer" if row[change] else "No query"
                )


def test_the_tables_and_plots_are_drawn(report: Path, opened: Run) -> None:
    page = opened(report)
    for section in page.locator("main > section").all():
        assert section.locator(".body > *").count() > 0, section.get_attribute("id")
    draw_all_plots(page)
    for plot in page.locator(".plot").all():
        label = plot.get_attribute("aria-label")
        assert plot.locator(".trace path, .point, .points path").count() > 0, label
        assert plot.bounding_box()["width"] > 200, label
    metrics = page.locator("#metrics table").first
    assert metrics.locator("tbody tr").count() == 2 * len(MODELS)
    value = next(
        row["value"]
        for row in content(report)["splits"][0]["metrics"]["rows"]
        if (row["model"], row["direction"], row["metric"]) == ("demo", "image_to_text", "recall@1")
    )
    expect(metrics.locator("tbody tr").first).to_contain_text(f"{value:.3f}")
    expect(page.locator("#metrics")).to_contain_text("TRAINED ON")  # the provenance


@pytest.mark.full
def test_the_map_shows_the_item_under_the_pointer(report: Path, opened: Run) -> None:
    page = opened(report, "#map=demo&colour=rank")
    plot = page.locator("#map .plot")
    plot.scroll_into_view_if_needed()
    texts = content(report)
    points = texts["splits"][0]["map"]["models"][0]
    assert (len(points["image"]["item"]), len(points["caption"]["item"])) == (30, 150)
    expect(plot.locator(".point")).to_have_count(180)
    index = int(np.argmax(points["image"]["x"]))  # at the edge, where few other points cover it
    box = plot.locator(".trace").nth(1).locator(".point").nth(index).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#map-point .verdict")).to_contain_text("rank")
    shown = page.locator("#map-point p").first.text_content()
    assert shown in {*texts["captions"]["text"], *texts["images"]["file"]}
    expect(plot.locator(".hoverlayer")).to_contain_text((shown or "")[:12])
    page.select_option("#map select[name=colour]", "category")
    expect(page.locator("#map-legend")).to_contain_text("others")
    assert "colour=category" in page.url


def test_markup_in_captions_is_shown_as_text(report: Path, opened: Run) -> None:
    page = opened(report)
    draw_all_plots(page)
    captions = content(report)["captions"]
    assert set(NASTY) <= set(captions["text"])
    (split,) = content(report)["splits"]
    shown = 0
    for text in NASTY:
        index = captions["text"].index(text)
        if index in split["queries"]["text_to_image"]["asked"]:
            page.goto(f"{report.as_uri()}#query=caption-{captions['id'][index]}")
            assert page.locator("dialog .caption").first.text_content() == text
            shown += 1
    assert shown
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, dialog script, main b:not(.notes b)").count() == 0


# ---- interaction ----


def test_filters_change_the_gallery_and_the_address(report: Path, opened: Run) -> None:
    page = opened(report)
    summary, cards = page.locator("#result-count"), page.locator("#cards .card")
    everything = summary.text_content()
    page.select_option("#filters select[name=direction]", "image_to_text")
    expect(summary).not_to_have_text(everything or "")
    assert "direction=image_to_text" in page.url
    assert cards.locator(".with-thumbnail").count() == cards.count() > 0
    images = summary.text_content() or ""
    category = page.locator("#filters select[name=category] option").nth(1).get_attribute("value")
    page.select_option("#filters select[name=category]", category)
    expect(summary).not_to_have_text(images)
    page.fill("#filters input[name=from]", "3")
    page.press("#filters input[name=from]", "Enter")
    expect(page.locator("#filters input[name=from]")).to_be_focused()
    assert "from=3" in page.url
    ranks = [int(re.search(r"rank (\d+)", text)[1]) for text in cards.locator(".foot").all_text_contents()]  # type: ignore[index]
    assert ranks == sorted(ranks, reverse=True)
    assert min(ranks) >= 3
    page.go_back()
    page.go_back()
    expect(summary).to_have_text(images)
    page.go_back()
    expect(summary).to_have_text(everything or "")
    page.go_forward()
    expect(summary).to_have_text(images)
    expect(page.locator("#filters select[name=direction]")).to_have_value("image_to_text")
    page.reload()
    expect(summary).to_have_text(images)


@pytest.mark.full
def test_a_filter_of_kinds(report: Path, opened: Run) -> None:
    page = opened(report, "#model=noisy")
    kind = page.locator("#filters select[name=kind] option").nth(1).get_attribute("value")
    page.select_option("#filters select[name=kind]", kind)
    rows = content(report)["splits"][0]["failure_kinds"]["rows"]
    failures = sum(row["failures"] for row in rows if (row["model"], row["kind"]) == ("noisy", kind))
    expect(page.locator("#result-count")).to_contain_text(f"{failures} quer")


@pytest.mark.full
def test_pages_of_the_gallery(report: Path, opened: Run) -> None:
    page = opened(report, "#model=noisy")
    first = page.locator("#cards .card").first.get_attribute("data-query")
    assert page.locator("#cards .card").count() == 24
    page.click("#pager button:has-text('Next')")
    expect(page.locator("#pager")).to_contain_text("Page 2")
    assert page.locator("#cards .card").first.get_attribute("data-query") != first
    page.go_back()
    assert page.locator("#cards .card").first.get_attribute("data-query") == first


@pytest.mark.parametrize("action", ["click", pytest.param("Enter", marks=pytest.mark.full)])
def test_a_query_opens_and_closes(action: str, report: Path, opened: Run) -> None:
    page = opened(report, "#direction=text_to_image")
    card = page.locator("#cards .card").nth(1)
    dialog = page.locator("dialog")
    if action == "click":
        card.click()
    else:
        card.press("Enter")
    expect(dialog).to_be_visible()
    assert f"query={card.get_attribute('data-query')}" in page.url
    expect(dialog.locator(".results-by-model > div")).to_have_count(len(MODELS))
    assert dialog.locator(".hits li").count() == 5 * len(MODELS)
    assert dialog.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50
    text = dialog.locator(".caption").text_content()
    dialog.locator("button:has-text('Next')").click()
    expect(dialog.locator(".caption")).not_to_have_text(text or "")
    page.go_back()
    expect(dialog.locator(".caption")).to_have_text(text or "")
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    assert "query=" not in page.url
    page.go_back()
    expect(dialog).to_be_visible()


@pytest.mark.full
def test_the_command_of_a_query(measured: Path, report: Path, opened: Run) -> None:
    page = opened(report, "#direction=text_to_image")
    page.locator("#cards .card").first.click()
    (words,) = page.locator("dialog code").all_text_contents()
    rows = json.loads(run_command(measured, *shlex.split(words)[1:], "--json").stdout)
    items = [row["item"].split("/")[-1] for row in rows if row["position"] <= 5]
    assert [text.split("✓ right")[-1] for text in page.locator("dialog .item").all_text_contents()] == items


@pytest.mark.full
def test_links_to_sections_keep_the_filters(report: Path, opened: Run) -> None:
    page = opened(report, "#direction=text_to_image")
    page.click("nav a:has-text('Hubs')")
    assert page.url.endswith("#hubs&direction=text_to_image")
    expect(page.locator("#hubs h2")).to_be_focused()
    page.click("#comparison td a >> nth=0")
    expect(page.locator("#filters input[value=fixed]")).to_be_checked()


@pytest.mark.full
def test_invalid_addresses(report: Path, opened: Run) -> None:
    page = opened(report)
    for state in ("#nothing", "#query=caption-0", "#model=x&page=-3&from=a&sort=z&category=no", "#%zz&kind=%"):
        page.goto(report.as_uri() + state)
        assert page.locator("#cards .card").count() > 0
        expect(page.locator("dialog")).not_to_be_visible()


FOCUSABLE = "a[href], button:not(:disabled), select, input, summary, [tabindex='0']"


@pytest.mark.full
def test_every_control_is_reached_by_keyboard(report: Path, opened: Run) -> None:
    page = opened(report)
    draw_all_plots(page)
    page.evaluate(
        """selector => {
            const reachable = element => element.checkVisibility() && !(element.type === 'radio' && !element.checked);
            window.expected = new Set([...document.querySelectorAll(selector)].filter(reachable));
            window.total = window.expected.size;
            window.unmarked = [];
            document.activeElement.blur();
            scrollTo(0, 0);
        }""",
        FOCUSABLE,
    )
    total = page.evaluate("window.total")
    assert total > 60
    page.locator(".skip").focus()
    for _ in range(total):
        page.evaluate(
            """() => {
                const focused = document.activeElement;
                window.expected.delete(focused);
                const hasOutline = element => getComputedStyle(element).outlineStyle !== 'none';
                if (![focused, focused.parentElement].some(hasOutline)) {
                    window.unmarked.push(focused.outerHTML.slice(0, 100));
                }
            }"""
        )
        page.keyboard.press("Tab")
    assert page.evaluate("[...window.expected].map(element => element.outerHTML.slice(0, 100))") == []
    assert page.evaluate("window.unmarked") == []


@pytest.mark.full
@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1400),
        ("dark", 400),
        pytest.param("dark", 1400, marks=pytest.mark.full),
        pytest.param("light", 400, marks=pytest.mark.full),
    ],
)
def test_axe_finds_no_violations(scheme: str, width: int, report: Path, opened: Run) -> None:
    page = opened(report, width=width, scheme=scheme, bypass_csp=True)
    draw_all_plots(page)
    page.evaluate(AXE_SCRIPT)
    run = """axe.run({resultTypes: ['violations']}).then(
        ({violations}) => violations.map(({id, nodes}) => [id, nodes.map(node => node.html.slice(0, 120))])
    )"""
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true }")
    assert page.evaluate(run) == []
    page.evaluate("scrollTo(0, 0)")
    page.locator("#cards .card").first.click()
    assert page.evaluate(run) == []


@pytest.mark.full
def test_the_page_fits_a_phone(report: Path, opened: Run) -> None:
    page = opened(report, width=400)
    draw_all_plots(page)
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.locator("#cards .card").first.click()
    dialog = page.locator("dialog")
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")


@pytest.mark.full
def test_light_and_dark(report: Path, opened: Run) -> None:
    page = opened(report)
    plot = page.locator("#recall .plot").first
    plot.scroll_into_view_if_needed()

    def colours() -> Any:
        tick = plot.locator(".xtick text").first
        return [
            tick.evaluate("tick => getComputedStyle(tick).fill"),
            page.evaluate("getComputedStyle(document.body).color"),
        ]

    light = colours()
    page.emulate_media(color_scheme="dark")
    expect(plot.locator(".xtick text").first).not_to_have_css("fill", light[0])
    assert all(dark != before for dark, before in zip(colours(), light, strict=True))


# ---- missing evaluations, models, image files and packages ----


@pytest.fixture
def copied(measured: Path, store: Path) -> Path:
    """A copy of the store, for a test that changes it."""
    shutil.copytree(measured, store)
    return store


def test_a_split_without_an_evaluation(copied: Path, cli: Run) -> None:
    assert "run 'clipstore eval --split t/val' first" in cli("report", "--split", "t/val", code=1).stderr
    error = cli("report", "--split", SPLIT, "--protocol", "paired-rows", code=1).stderr
    assert f"clipstore eval --split {SPLIT} --protocol paired-rows" in error
    assert "clipstore eval --model" in cli("report", "--split", SPLIT, "--model", "tuned", "--unseen", code=1).stderr
    assert "did you mean 's/all'" in cli("report", "--split", "s/al", code=1).stderr


def test_zero_shot_classification(copied: Path, cli: Run, cli_json: Run, opened: Run) -> None:
    cli("zeroshot", "--split", SPLIT, "--model", "demo", "--model", "tuned")
    cli("report", "--map", "none", "--split", SPLIT)
    file = copied / "reports" / "report.html"
    (group,) = content(file)["zeroshot"]
    assert group["models"] == ["demo", "tuned"]
    stored = {(row["metric"], row["model"]): row["value"] for row in cli_json("query", "zeroshot")}
    assert {row["metric"]: row["values"] for row in group["metrics"]} == {
        words: [stored[metric, model] for model in group["models"]]
        for metric, words in (
            ("hit_rate@1", "hit rate@1"),
            ("hit_rate@5", "hit rate@5"),
            ("map", "mean average precision"),
        )
    }
    by_class = {(row["class"], row["model"]): row["average_precision"] for row in cli_json("query", "zeroshot_classes")}
    for row in group["classes"]:
        assert row["values"] == [by_class[row["class"], model] for model in group["models"]]
    page = opened(file)
    expect(page.locator("#zeroshot h3")).to_contain_text("s/all, multi labels")
    expect(page.locator("#zeroshot table").first.locator("tbody tr")).to_have_count(3)
    assert content(file)["splits"]
    cli("report", "--map", "none", "--split", SPLIT, "--model", "noisy")
    assert content(file)["zeroshot"] == []


def test_a_store_with_classifications_alone(cli: Run, store: Path, tmp_path: Path, opened: Run) -> None:
    cli("ingest", "folder", draw_classes(tmp_path / "<b>&", "shape", 2), "--name", "shapes")
    cli("embed", "--model", "demo", "--only", "images")
    cli("zeroshot", "--split", "shapes/all")
    cli("report")
    page = opened(store / "reports" / "report.html")
    expect(page.locator("main > section")).to_have_count(2)
    expect(page.locator("#contents")).to_have_text("Zero-shot classificationItems that failed")
    expect(page.locator("#zeroshot")).to_contain_text("accuracy@1")
    expect(page.locator("#zeroshot")).to_contain_text("Confused classes of demo")
    cli("report", "--split", "shapes/all")
    assert "did you mean" in cli("report", "--split", "shapes/al", code=1).stderr


def test_without_any_evaluation(cli: Run, scenes: Path) -> None:
    cli("ingest", "coco", scenes)
    assert "clipstore eval --split SPLIT" in cli("report", code=1).stderr


@pytest.mark.full
def test_a_single_model(copied: Path, cli: Run, opened: Run) -> None:
    cli("report", "--split", SPLIT, "--model", "demo", "--map", "none")
    page = opened(copied / "reports" / "report.html")
    expect(page.locator("#comparison")).to_contain_text("Only demo was evaluated here")
    expect(page.locator("#comparison")).to_contain_text(f"clipstore eval --model NAME --split {SPLIT}")
    assert page.locator("#filters input[name=show]").count() == 0
    assert page.locator("#cards .card").count() > 0
    expect(page.locator("#training")).to_contain_text("None of these models was trained")


@pytest.mark.full
def test_galleries_that_differ(copied: Path, cli: Run, sql: Run, opened: Run, import_vectors: Run) -> None:
    """A model has vectors of only some images: the page says why it cannot be compared, and has all other sections."""
    images = [row["source_id"] for row in sql("SELECT source_id FROM images ORDER BY image_id LIMIT 20")]
    captions = [row["source_id"] for row in sql("SELECT source_id FROM captions ORDER BY caption_id")]
    rng = np.random.default_rng(1)
    import_vectors("part", SPLIT, *({item: rng.normal(size=8) for item in ids} for ids in (images, captions)))
    cli("eval", "--split", SPLIT, "--model", "part", "--partial")
    output = cli("report", "--split", SPLIT, "--model", "demo", "--model", "part", "--map", "none").stdout
    assert "report.html" in output
    page = opened(copied / "reports" / "report.html")
    expect(page.locator("#comparison")).to_contain_text("cannot be compared")
    assert page.locator("#cards .card").count() > 0


@pytest.mark.full
def test_caption_sets_are_not_mixed(copied: Path, cli: Run) -> None:
    cli("eval", "--split", SPLIT, "--model", "demo", "--captions", "first5")
    words = ("report", "--split", SPLIT, "--map", "none")
    assert "--captions" in cli(*words, code=1).stderr
    cli(*words, "--captions", "all")
    cli(*words, "--model", "demo")


def test_models_and_formats(copied: Path, cli: Run, cli_json: Run) -> None:
    assert "unknown model 'nope'" in cli("report", "--split", SPLIT, "--model", "nope", code=1).stderr
    result = cli_json("report", "--split", SPLIT, "--format", "md")
    assert result["file"] is None
    assert "| demo" in result["text"]
    cli("eval", "--split", SPLIT, "--model", "demo", "--unseen")
    error = cli("report", "--split", SPLIT, "--model", "demo", "--model", "tuned", "--unseen", code=1).stderr
    assert f"clipstore eval --model demo --model tuned --split {SPLIT} --unseen" in error


def test_missing_image_files(copied: Path, cli: Run, cli_json: Run, sql: Run, opened: Run, tmp_path: Path) -> None:
    scenes = Path(sql("SELECT path FROM images")[0]["path"]).parent
    moved = tmp_path / "moved"
    shutil.copytree(scenes, moved)
    import duckdb

    with duckdb.connect(str(copied / "catalog.duckdb")) as catalog:  # refer to copies, which this test may delete
        catalog.execute("UPDATE images SET path = replace(path, ?, ?)", [str(scenes), str(moved)])
    damaged, *deleted = sorted(moved.iterdir())[::2]
    for file in deleted:
        file.unlink()
    damaged.write_bytes(b"not an image")
    result = cli_json("report", "--split", SPLIT, "--map", "none")
    assert (result["photos"], result["missing_photos"]) == (15, 15)
    page = opened(copied / "reports" / "report.html", "#direction=image_to_text&model=noisy")
    expect(page.locator("#about")).to_contain_text("15 image files missing or unreadable")
    assert page.locator("#cards .thumbnail.missing").count() > 0
    assert page.locator("#cards img.thumbnail").count() > 0


@pytest.mark.full
def test_thumbnails_in_a_folder(measured: Path, tmp_path: Path, opened: Run) -> None:
    file = tmp_path / "a b" / "my report.html"
    run_command(measured, "report", "--split", SPLIT, "--map", "none", "--thumbnails", "folder", "--out", file)
    assert len(list((file.parent / "my report_photos").iterdir())) == 30
    page = opened(file, "#gallery")
    image = page.locator("#cards img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50


@pytest.mark.full
def test_without_umap_only_the_map_is_missing(
    measured: Path, tmp_path: Path, opened: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    run_command(measured, "report", "--split", SPLIT, "--out", tmp_path / "r.html")
    page = opened(tmp_path / "r.html")
    expect(page.locator("#map")).to_contain_text("clipstore[map]")
    assert page.locator("#cards .card").count() > 0


@pytest.mark.full
def test_ten_thousand_captions_of_one_image(
    cli: Run, import_vectors: Run, scenes: Path, tmp_path: Path, store: Path, opened: Run
) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    file = root / "annotations" / "captions_val.json"
    annotations = json.loads(file.read_text())
    image = annotations["images"][3]["id"]
    annotations["annotations"] += [
        {"id": 10**6 + number, "image_id": image, "caption": f"the picture of {number} things"}
        for number in range(10_000)
    ]
    file.write_text(json.dumps(annotations))
    cli("ingest", "coco", root)
    rng = np.random.default_rng(1)
    images, captions = (
        {row["id"]: rng.normal(size=8) for row in annotations[key]} for key in ("images", "annotations")
    )
    import_vectors("random", "coco/val", images, captions)
    cli("eval", "--split", "coco/val")
    cli("report", "--map", "none")
    page = opened(store / "reports" / "report.html", "#gallery")
    assert page.locator("#cards .card").count() == 24
    assert page.locator("body *").count() < 5_000
    page.locator("#cards .card").first.click()
    expect(page.locator("dialog")).to_be_visible()


@pytest.mark.full
def test_several_splits(copied: Path, cli: Run, cli_json: Run, opened: Run) -> None:
    cli("eval", "--split", "t/val", "--model", "demo")
    result = cli_json("report", "--map", "none")
    assert result["models"] == {SPLIT: MODELS, "t/val": ["demo"]}
    page = opened(copied / "reports" / "report.html")
    expect(page.locator("h1")).to_have_text(SPLIT)
    page.select_option("#splits select", "t/val")
    expect(page.locator("h1")).to_have_text("t/val")
    assert page.locator("#metrics tbody tr").count() == 2
    page.go_back()
    expect(page.locator("h1")).to_have_text(SPLIT)


@pytest.mark.full
def test_paired_rows(copied: Path, cli: Run, opened: Run) -> None:
    cli("eval", "--split", SPLIT, "--model", "demo", "--model", "noisy", "--protocol", "paired-rows")
    cli("report", "--split", SPLIT, "--protocol", "paired-rows", "--map", "none")
    page = opened(copied / "reports" / "report.html")
    expect(page.locator("#metrics h3")).to_have_count(3)  # two protocols, and seen images
    page.locator("#cards .card").first.click()
    expect(page.locator("dialog .caption").first).to_be_visible()


# ---- tables for papers ----


def test_tables_for_papers(measured: Path, tmp_path: Path) -> None:
    words = ("report", "--split", SPLIT, "--format")
    text = run_command(measured, *words, "md", "--model", "demo", "--model", "noisy").stdout
    assert "| noisy |" in text
    assert "tuned" not in text
    file = tmp_path / "new" / "table.tex"
    assert run_command(measured, *words, "tex", "--out", file).stdout.strip() == str(file)
    assert r"\begin{table*}" in file.read_text()


# ---- in full size ----


@pytest.mark.full
def test_real_images(test_data: Path, cli: Run, cli_json: Run, store: Path, opened: Run) -> None:
    cli("ingest", "coco", test_data / "coco-mini")
    cli("embed", "--model", "demo")
    splits = [row["split"] for row in json.loads(cli("query", "splits", "--json").stdout)]
    for split in splits:
        cli("eval", "--split", split)
    result = cli_json("report")
    assert list(result["models"]) == splits
    assert result["missing_photos"] == 0
    for split in splits:
        page = opened(store / "reports" / "report.html", f"#split={split}")
        draw_all_plots(page)
        expect(page.locator("h1")).to_have_text(split)
        page.locator("#cards .card").first.click()
        image = page.locator("dialog img").first
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50


def test_a_page_of_hard_negatives_has_accuracies_and_their_comparison(
    cli: Run, import_vectors: Run, tmp_path: Path, store: Path, opened: Run
) -> None:
    """Nothing is ranked: the other sections say so, and the page logs no error."""
    words = ("--split", "h/all", "--protocol", "hard-negatives")
    (tmp_path / "h.csv").write_text("image_path,positive,negative,subset\na.jpg,1,2,add\nb.jpg,3,4,swap\n")
    cli("ingest", "hard-negatives", tmp_path / "h.csv")
    images = {"a.jpg": [1.0, 0.0], "b.jpg": [0.0, 1.0]}
    right = {"add/0": [1.0, 0.0], "add/0/negative": [0.0, 1.0], "swap/0": [0.0, 1.0], "swap/0/negative": [1.0, 1.0]}
    import_vectors("right", "h/all", images, right)
    import_vectors("tied", "h/all", images, dict.fromkeys(right, np.ones(2)))
    cli("eval", *words)
    cli("report", *words, "--map", "none")
    page = opened(store / "reports" / "report.html")
    rows = page.locator("#hard tbody tr").all_inner_texts()
    assert [row.split("\t")[:2] + row.split("\t")[-1:] for row in rows] == [
        [subset, model, accuracy]
        for subset in ("add", "swap", "all pairs", "mean of subsets")
        for model, accuracy in (("right", "1.000"), ("tied", "0.500"))
    ]
    assert "all pairs" in page.locator("#comparison").inner_text()
    assert "\N{MINUS SIGN}0.500" in page.locator("#comparison").inner_text()
    assert "ranks nothing" in page.locator("#metrics").inner_text()


@pytest.mark.full
def test_screenshots_of_the_demo(tmp_path: Path, browser: Browser, opened: Run) -> None:
    """The screenshots of the documentation; CLIPSTORE_SCREENSHOTS=docs/images writes them there."""
    demo = CliRunner().invoke(main, ["demo", str(tmp_path / "demo")])
    assert demo.exit_code == 0, demo.output
    run_command(tmp_path / "demo" / "store", "report")
    file = tmp_path / "demo" / "store" / "reports" / "report.html"
    out = Path(os.environ.get("CLIPSTORE_SCREENSHOTS", tmp_path / "shots"))
    out.mkdir(exist_ok=True)
    worst = content(file)["splits"][0]["queries"]["text_to_image"]["asked"][0]
    query = f"#gallery&query=caption-{content(file)['captions']['id'][worst]}"
    shoot(opened(file), out / "report-metrics.png", height=1240)
    shoot(opened(file, "#gallery&show=fixed&direction=text_to_image", scheme="dark"), out / "report-gallery.png")
    shoot(opened(file, query), out / "report-query.png")
    shoot(opened(file, "#map&colour=rank"), out / "report-map.png")
    states = [("", "light"), ("#comparison", "dark"), (query, "light")]
    parts = [shoot(opened(file, state, width=400, scheme=scheme), tmp_path / "part.png") for state, scheme in states]
    strip = Image.new("RGB", (400 * len(parts) + 16 * (len(parts) - 1), parts[0].height), "#8a8f98")
    for number, part in enumerate(parts):
        strip.paste(part, (416 * number, 0))
    strip.save(out / "report-phone.png", optimize=True)
    for screenshot in out.glob("report-*.png"):
        assert screenshot.stat().st_size < 300_000, screenshot


def shoot(page: Page, file: Path, *, height: int = 900) -> Image.Image:
    """Save and return a screenshot of the viewport."""
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    page.wait_for_timeout(1500)  # plots near the viewport are drawn meanwhile
    page.screenshot(path=file)
    with Image.open(file) as image:
        screenshot = image.convert("RGB")
    screenshot.save(file, optimize=True)
    return screenshot
