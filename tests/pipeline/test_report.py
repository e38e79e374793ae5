"""`clipstore report`: the page, opened in a real browser, and what it says held against the queries that it names."""

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
from helpers import run_command
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clipstore.cli import main
from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]

CHROMIUM = shutil.which("chromium")
SPLIT = "s/all"
MODELS = ["demo", "tuned", "noisy"]

# Captions of a stranger.
NASTY = [
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> a \"red\" star & a moon",
    "</script><b>bold</b> <!-- \u2028 two \u2029 lines -->",
    "🦄 a 'unicorn' \u202e and a `$" + "{tick}`",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 30 drawn scenes, some with nasty captions, and three models measured on them: the bundled one, one
    tuned on half of them, and vectors made elsewhere.
    """
    root = tmp_path_factory.mktemp("report")
    store = root / "store"
    draw_dataset(root / "scenes", images=30, seed=7, split="all")
    file = root / "scenes" / "annotations" / "captions_all.json"
    told = json.loads(file.read_text())
    for one, text in zip(told["annotations"][::7], NASTY, strict=False):
        one["caption"] = text
    file.write_text(json.dumps(told))
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
    """A model of the bundled one's vectors with noise on them."""
    import clipstore

    rng = np.random.default_rng(3)
    words: list[object] = []
    for option, what in (("image", "images"), ("caption", "captions")):
        ids, vectors = clipstore.open(store).vectors("demo", SPLIT, what)
        np.save(root / f"{what}.npy", vectors + rng.normal(0, 0.05, vectors.shape).astype(np.float32))
        np.save(root / f"{what}_ids.npy", ids)
        words += [f"--{what}", root / f"{what}.npy", f"--{option}-ids", root / f"{what}_ids.npy"]
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
    """Open a page from disk. In the end it must have told no error, and asked for nothing but itself and its folder."""
    told: list[str] = []
    contexts = []

    def opened(
        file: Path, state: str = "", *, width: int = 1400, scheme: Any = "light", bypass_csp: bool = False
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=bypass_csp
        )
        contexts.append(context)
        page = context.new_page()
        own = (file.as_uri(), (file.parent / f"{file.stem}_photos").as_uri())
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: request.url.startswith((*own, "data:")) or told.append(request.url))
        page.goto(file.as_uri() + state)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert told == []


def content(file: Path) -> Any:
    """What was measured, as the page has it."""
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def see_all(page: Page) -> None:
    """Have every plot drawn."""
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".main-svg").first).to_be_attached()


# ---- what it says ----


def test_the_queries_give_the_numbers(measured: Path, report: Path, sql: Run) -> None:
    """Every section's rows are the answers of the very commands that it names."""
    held = 0

    def hold(part: Any) -> None:
        nonlocal held
        if isinstance(part, list):
            for one in part:
                hold(one)
        elif isinstance(part, dict):
            if "commands" in part and "rows" in part:
                rows = [
                    row
                    for words in part["commands"]
                    for row in json.loads(run_command(measured, *shlex.split(words)[1:], "--json").stdout)
                ]
                assert [{key: row[key] for key in rows[0]} for row in part["rows"]] == rows, part["commands"]
                held += len(rows)
            for one in part.values():
                hold(one)

    told = content(report)
    hold(told)
    assert held > 300
    (split,) = told["splits"]
    for key in ("comparison", "statistics"):
        words = [word for word in shlex.split(split[key]["commands"][0])[1:] if word != "--json"]
        answer = json.loads(run_command(measured, *words, "--json").stdout)
        assert {name: split[key][name] for name in answer} == answer


def test_the_gallery_has_what_was_retrieved(measured: Path, report: Path) -> None:
    told = content(report)
    (split,) = told["splits"]
    ranks, hits = (
        json.loads(run_command(measured, *shlex.split(one)[1:], "--json").stdout)
        for one in split["queries"]["commands"]
    )
    assert any(row["kind"] for row in ranks)
    places = {"image": told["images"], "caption": told["captions"]}
    for direction, asks, wants in (("image_to_text", "image", "caption"), ("text_to_image", "caption", "image")):
        own = split["queries"][direction]
        asked = [places[asks]["id"][place] for place in own["asked"]]
        failed = {row["query_id"] for row in ranks if row["direction"] == direction and row["rank"] > 1}
        assert sorted(asked) == sorted(failed)
        for model, columns in zip(MODELS, own["models"], strict=True):
            by_query = {row["query_id"]: row for row in ranks if (row["model"], row["direction"]) == (model, direction)}
            assert columns["rank"] == [round(by_query[query]["rank"], 2) for query in asked]
            assert columns["kind"] == [by_query[query]["kind"] for query in asked]
            assert [places[wants]["id"][one] for one in columns["wanted"]] == [by_query[q]["wanted_id"] for q in asked]
            first: dict[int, list[tuple[int, int]]] = {}
            for row in hits:
                if (row["model"], row["direction"]) == (model, direction):
                    first.setdefault(row["query_id"], []).append((row["item_id"], int(row["correct"])))
            shown = [
                [(places[wants]["id"][item], right) for item, right in zip(*one, strict=True)]
                for one in zip(columns["hits"], columns["correct"], strict=True)
            ]
            assert shown == [first[query] for query in asked]


def test_fixed_and_broken_are_those_of_compare(measured: Path, report: Path, opened: Run) -> None:
    page = opened(report)
    for model in content(report)["splits"][0]["comparison"]["models"]:
        for row in model["queries"]:
            for change in ("fixed", "broken"):
                state = f"#show={change}&baseline=demo&model={model['model']}&direction={row['direction']}"
                page.goto(report.as_uri() + state)
                expect(page.locator("#found")).to_contain_text(
                    f"{row[change]} quer" if row[change] else "No query is so"
                )


def test_the_tables_and_plots_are_drawn(report: Path, opened: Run) -> None:
    page = opened(report)
    for section in page.locator("main > section").all():
        assert section.locator(".body > *").count() > 0, section.get_attribute("id")
    see_all(page)
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
    expect(page.locator("#metrics")).to_contain_text("TRAINED ON")  # the stamp


def test_the_map_shows_what_the_pointer_is_at(report: Path, opened: Run) -> None:
    page = opened(report, "#map=demo&colour=rank")
    plot = page.locator("#map .plot")
    plot.scroll_into_view_if_needed()
    told = content(report)
    points = told["splits"][0]["map"]["models"][0]
    assert (len(points["image"]["item"]), len(points["caption"]["item"])) == (30, 150)
    expect(plot.locator(".point")).to_have_count(180)
    place = int(np.argmax(points["image"]["x"]))  # at the edge, where few others lie over it
    box = plot.locator(".trace").nth(1).locator(".point").nth(place).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#map-point .verdict")).to_contain_text("rank")
    shown = page.locator("#map-point p").first.text_content()
    assert shown in {*told["captions"]["text"], *told["images"]["file"]}
    expect(plot.locator(".hoverlayer")).to_contain_text((shown or "")[:12])
    page.select_option("#map select[name=colour]", "category")
    expect(page.locator("#map-legend")).to_contain_text("others")
    assert "colour=category" in page.url


def test_nasty_captions_are_text(report: Path, opened: Run) -> None:
    page = opened(report)
    see_all(page)
    told = content(report)
    assert set(NASTY) <= set(told["captions"]["text"])
    (split,) = told["splits"]
    shown = 0
    for text in NASTY:
        place = told["captions"]["text"].index(text)
        if place in split["queries"]["text_to_image"]["asked"]:
            page.goto(f"{report.as_uri()}#query=caption-{told['captions']['id'][place]}")
            assert page.locator("dialog .said").first.text_content() == text
            shown += 1
    assert shown
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, dialog script, main b:not(.notes b)").count() == 0


# ---- how it is used ----


def test_filters_change_the_gallery_and_the_address(report: Path, opened: Run) -> None:
    page = opened(report)
    found, cards = page.locator("#found"), page.locator("#cards .card")
    everything = found.text_content()
    page.select_option("#filters select[name=direction]", "image_to_text")
    expect(found).not_to_have_text(everything or "")
    assert "direction=image_to_text" in page.url
    assert cards.locator(".with-photo").count() == cards.count() > 0
    images = found.text_content() or ""
    category = page.locator("#filters select[name=category] option").nth(1).get_attribute("value")
    page.select_option("#filters select[name=category]", category)
    expect(found).not_to_have_text(images)
    page.fill("#filters input[name=from]", "3")
    page.press("#filters input[name=from]", "Enter")
    expect(page.locator("#filters input[name=from]")).to_be_focused()
    assert "from=3" in page.url
    ranks = [int(re.search(r"rank (\d+)", text)[1]) for text in cards.locator(".foot").all_text_contents()]  # type: ignore[index]
    assert ranks == sorted(ranks, reverse=True)
    assert min(ranks) >= 3
    page.go_back()
    page.go_back()
    expect(found).to_have_text(images)
    page.go_back()
    expect(found).to_have_text(everything or "")
    page.go_forward()
    expect(found).to_have_text(images)
    expect(page.locator("#filters select[name=direction]")).to_have_value("image_to_text")
    page.reload()
    expect(found).to_have_text(images)


def test_a_filter_of_kinds(report: Path, opened: Run) -> None:
    page = opened(report, "#model=noisy")
    kind = page.locator("#filters select[name=kind] option").nth(1).get_attribute("value")
    page.select_option("#filters select[name=kind]", kind)
    rows = content(report)["splits"][0]["failure_kinds"]["rows"]
    failures = sum(row["failures"] for row in rows if (row["model"], row["kind"]) == ("noisy", kind))
    expect(page.locator("#found")).to_contain_text(f"{failures} quer")


def test_pages_of_the_gallery(report: Path, opened: Run) -> None:
    page = opened(report, "#model=noisy")
    first = page.locator("#cards .card").first.get_attribute("data-query")
    assert page.locator("#cards .card").count() == 24
    page.click("#pager button:has-text('Next')")
    expect(page.locator("#pager")).to_contain_text("Page 2")
    assert page.locator("#cards .card").first.get_attribute("data-query") != first
    page.go_back()
    assert page.locator("#cards .card").first.get_attribute("data-query") == first


@pytest.mark.parametrize("how", ["click", "Enter"])
def test_a_query_opens_and_closes(how: str, report: Path, opened: Run) -> None:
    page = opened(report, "#direction=text_to_image")
    card = page.locator("#cards .card").nth(1)
    dialog = page.locator("dialog")
    if how == "click":
        card.click()
    else:
        card.press("Enter")
    expect(dialog).to_be_visible()
    assert f"query={card.get_attribute('data-query')}" in page.url
    expect(dialog.locator(".answers-by-model > div")).to_have_count(len(MODELS))
    assert dialog.locator(".hits li").count() == 5 * len(MODELS)
    assert dialog.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50
    said = dialog.locator(".said").text_content()
    dialog.locator("button:has-text('Next')").click()
    expect(dialog.locator(".said")).not_to_have_text(said or "")
    page.go_back()
    expect(dialog.locator(".said")).to_have_text(said or "")
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    assert "query=" not in page.url
    page.go_back()
    expect(dialog).to_be_visible()


def test_the_command_of_a_query(measured: Path, report: Path, opened: Run) -> None:
    page = opened(report, "#direction=text_to_image")
    page.locator("#cards .card").first.click()
    (words,) = page.locator("dialog code").all_text_contents()
    rows = json.loads(run_command(measured, *shlex.split(words)[1:], "--json").stdout)
    items = [row["item"].split("/")[-1] for row in rows if row["position"] <= 5]
    assert [text.split("✓ right")[-1] for text in page.locator("dialog .what").all_text_contents()] == items


def test_links_to_sections_keep_the_filters(report: Path, opened: Run) -> None:
    page = opened(report, "#direction=text_to_image")
    page.click("nav a:has-text('Hubs')")
    assert page.url.endswith("#hubs&direction=text_to_image")
    expect(page.locator("#hubs h2")).to_be_focused()
    page.click("#comparison td a >> nth=0")
    expect(page.locator("#filters input[value=fixed]")).to_be_checked()


def test_addresses_that_nobody_made(report: Path, opened: Run) -> None:
    page = opened(report)
    for state in ("#nothing", "#query=caption-0", "#model=x&page=-3&from=a&sort=z&category=no", "#%zz&kind=%"):
        page.goto(report.as_uri() + state)
        assert page.locator("#cards .card").count() > 0
        expect(page.locator("dialog")).not_to_be_visible()


FOCUSABLE = "a[href], button:not(:disabled), select, input, summary, [tabindex='0']"


def test_everything_is_reached_by_keyboard(report: Path, opened: Run) -> None:
    page = opened(report)
    see_all(page)
    page.evaluate(
        """selector => {
            const seen = element => element.checkVisibility() && !(element.type === 'radio' && !element.checked);
            window.wanted = new Set([...document.querySelectorAll(selector)].filter(seen));
            window.total = window.wanted.size;
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
                const here = document.activeElement;
                window.wanted.delete(here);
                const marked = [here, here.parentElement].some(one => getComputedStyle(one).outlineStyle !== 'none');
                if (!marked) window.unmarked.push(here.outerHTML.slice(0, 100));
            }"""
        )
        page.keyboard.press("Tab")
    assert page.evaluate("[...window.wanted].map(one => one.outerHTML.slice(0, 100))") == []
    assert page.evaluate("window.unmarked") == []


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1400),
        ("dark", 400),
        pytest.param("dark", 1400, marks=pytest.mark.full),
        pytest.param("light", 400, marks=pytest.mark.full),
    ],
)
def test_axe_finds_nothing(scheme: str, width: int, report: Path, opened: Run) -> None:
    page = opened(report, width=width, scheme=scheme, bypass_csp=True)
    see_all(page)
    page.evaluate(AXE_SCRIPT)
    run = """axe.run({resultTypes: ['violations']}).then(
        told => told.violations.map(one => [one.id, one.nodes.map(node => node.html.slice(0, 120))])
    )"""
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true }")
    assert page.evaluate(run) == []
    page.evaluate("scrollTo(0, 0)")
    page.locator("#cards .card").first.click()
    assert page.evaluate(run) == []


def test_it_fits_a_phone(report: Path, opened: Run) -> None:
    page = opened(report, width=400)
    see_all(page)
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.locator("#cards .card").first.click()
    dialog = page.locator("dialog")
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")


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
    assert all(one != other for one, other in zip(colours(), light, strict=True))


# ---- what may be wrong with the input ----


@pytest.fixture
def copied(measured: Path, store: Path) -> Path:
    """A store of this test's own."""
    shutil.copytree(measured, store)
    return store


def test_a_split_without_an_evaluation(copied: Path, cli: Run) -> None:
    assert "run 'clipstore eval --split t/val' first" in cli("report", "--split", "t/val", code=1).stderr
    told = cli("report", "--split", SPLIT, "--protocol", "paired-rows", code=1).stderr
    assert f"clipstore eval --split {SPLIT} --protocol paired-rows" in told
    assert "clipstore eval --model" in cli("report", "--split", SPLIT, "--model", "tuned", "--unseen", code=1).stderr
    assert "did you mean 's/all'" in cli("report", "--split", "s/al", code=1).stderr


def test_without_any_evaluation(cli: Run, scenes: Path) -> None:
    cli("ingest", "coco", scenes)
    assert "clipstore eval --split SPLIT" in cli("report", code=1).stderr


def test_one_model_alone(copied: Path, cli: Run, opened: Run) -> None:
    cli("report", "--split", SPLIT, "--model", "demo", "--map", "none")
    page = opened(copied / "reports" / "report.html")
    expect(page.locator("#comparison")).to_contain_text("Only demo was evaluated here")
    expect(page.locator("#comparison")).to_contain_text(f"clipstore eval --model NAME --split {SPLIT}")
    assert page.locator("#filters input[name=show]").count() == 0
    assert page.locator("#cards .card").count() > 0
    expect(page.locator("#training")).to_contain_text("trained none of these models")


def test_galleries_that_differ(copied: Path, cli: Run, sql: Run, opened: Run, import_vectors: Run) -> None:
    """A model with vectors of some images alone: the page says why it cannot be compared, and the rest is made."""
    images = [row["source_id"] for row in sql("SELECT source_id FROM images ORDER BY image_id LIMIT 20")]
    captions = [row["source_id"] for row in sql("SELECT source_id FROM captions ORDER BY caption_id")]
    rng = np.random.default_rng(1)
    import_vectors("part", SPLIT, *({one: rng.normal(size=8) for one in ids} for ids in (images, captions)))
    cli("eval", "--split", SPLIT, "--model", "part", "--partial")
    told = cli("report", "--split", SPLIT, "--model", "demo", "--model", "part", "--map", "none").stdout
    assert "report.html" in told
    page = opened(copied / "reports" / "report.html")
    expect(page.locator("#comparison")).to_contain_text("cannot be compared")
    assert page.locator("#cards .card").count() > 0


def test_sets_of_captions_are_not_mixed(copied: Path, cli: Run) -> None:
    cli("eval", "--split", SPLIT, "--model", "demo", "--captions", "first5")
    words = ("report", "--split", SPLIT, "--map", "none")
    assert "--captions" in cli(*words, code=1).stderr
    cli(*words, "--captions", "all")
    cli(*words, "--model", "demo")


def test_what_report_is_asked_for(copied: Path, cli: Run, cli_json: Run) -> None:
    assert "unknown model 'nope'" in cli("report", "--split", SPLIT, "--model", "nope", code=1).stderr
    told = cli_json("report", "--split", SPLIT, "--format", "md")
    assert told["file"] is None
    assert "| demo" in told["text"]
    cli("eval", "--split", SPLIT, "--model", "demo", "--unseen")
    lacking = cli("report", "--split", SPLIT, "--model", "demo", "--model", "tuned", "--unseen", code=1).stderr
    assert f"clipstore eval --model demo --model tuned --split {SPLIT} --unseen" in lacking


def test_photos_that_have_gone(copied: Path, cli: Run, cli_json: Run, sql: Run, opened: Run, tmp_path: Path) -> None:
    scenes = Path(sql("SELECT path FROM images")[0]["path"]).parent
    moved = tmp_path / "photos"
    shutil.copytree(scenes, moved)
    import duckdb

    with duckdb.connect(str(copied / "catalog.duckdb")) as catalog:  # the same photos, where this test may remove some
        catalog.execute("UPDATE images SET path = replace(path, ?, ?)", [str(scenes), str(moved)])
    gone = sorted(moved.iterdir())[::2]
    for photo in gone[1:]:
        photo.unlink()
    gone[0].write_bytes(b"no photo")
    told = cli_json("report", "--split", SPLIT, "--map", "none")
    assert (told["photos"], told["missing_photos"]) == (15, 15)
    page = opened(copied / "reports" / "report.html", "#direction=image_to_text&model=noisy")
    expect(page.locator("#about")).to_contain_text("15 photos cannot be shown")
    assert page.locator("#cards .photo.gone").count() > 0
    assert page.locator("#cards img.photo").count() > 0


def test_photos_in_a_folder_beside(measured: Path, tmp_path: Path, opened: Run) -> None:
    file = tmp_path / "a b" / "my report.html"
    run_command(measured, "report", "--split", SPLIT, "--map", "none", "--thumbnails", "folder", "--out", file)
    assert len(list((file.parent / "my report_photos").iterdir())) == 30
    page = opened(file, "#gallery")
    image = page.locator("#cards img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50


def test_without_umap_the_rest_is_made(
    measured: Path, tmp_path: Path, opened: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.html"
    monkeypatch.setitem(sys.modules, "umap", None)
    run_command(measured, "report", "--split", SPLIT, "--out", file)
    page = opened(file)
    expect(page.locator("#map")).to_contain_text("clipstore[map]")
    assert page.locator("#cards .card").count() > 0


@pytest.mark.full
def test_ten_thousand_captions_of_one_image(
    cli: Run, import_vectors: Run, scenes: Path, tmp_path: Path, store: Path, opened: Run
) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    file = root / "annotations" / "captions_val.json"
    told = json.loads(file.read_text())
    image = told["images"][3]["id"]
    told["annotations"] += [
        {"id": 10**6 + number, "image_id": image, "caption": f"the picture of {number} things"}
        for number in range(10_000)
    ]
    file.write_text(json.dumps(told))
    cli("ingest", "coco", root)
    rng = np.random.default_rng(1)
    sides = [
        dict(zip((one["id"] for one in told[what]), rng.normal(size=(len(told[what]), 8)), strict=True))
        for what in ("images", "annotations")
    ]
    import_vectors("random", "coco/val", *sides)
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
    told = cli_json("report", "--map", "none")
    assert told["models"] == {SPLIT: MODELS, "t/val": ["demo"]}
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
    expect(page.locator("#metrics h3")).to_have_count(3)  # both protocols, and the seen images apart
    page.locator("#cards .card").first.click()
    expect(page.locator("dialog .said").first).to_be_visible()


# ---- tables for papers ----


def test_tables_for_papers(measured: Path, tmp_path: Path) -> None:
    told = run_command(
        measured, "report", "--split", SPLIT, "--model", "demo", "--model", "noisy", "--format", "md"
    ).stdout
    assert "| noisy |" in told
    assert "tuned" not in told
    file = tmp_path / "new" / "table.tex"
    assert run_command(measured, "report", "--split", SPLIT, "--format", "tex", "--out", file).stdout.strip() == str(
        file
    )
    assert r"\begin{table*}" in file.read_text()


# ---- in full size ----


@pytest.mark.full
def test_real_photos(test_data: Path, cli: Run, cli_json: Run, store: Path, opened: Run) -> None:
    cli("ingest", "coco", test_data / "coco-mini")
    cli("embed", "--model", "demo")
    splits = [row["split"] for row in json.loads(cli("query", "splits", "--json").stdout)]
    for split in splits:
        cli("eval", "--split", split)
    told = cli_json("report")
    assert list(told["models"]) == splits
    assert told["missing_photos"] == 0
    for split in splits:
        page = opened(store / "reports" / "report.html", f"#split={split}")
        see_all(page)
        expect(page.locator("h1")).to_have_text(split)
        page.locator("#cards .card").first.click()
        image = page.locator("dialog img").first
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50


@pytest.mark.full
def test_screenshots_of_the_demo(tmp_path: Path, browser: Browser, opened: Run) -> None:
    """The README's pictures, made anew with CLIPSTORE_SCREENSHOTS=docs/images."""
    told = CliRunner().invoke(main, ["demo", str(tmp_path / "demo")])
    assert told.exit_code == 0, told.output
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
    for made in out.glob("report-*.png"):
        assert made.stat().st_size < 300_000, made


def shoot(page: Page, file: Path, *, height: int = 900) -> Image.Image:
    """Save what is to be seen; the picture."""
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    page.wait_for_timeout(1500)  # plots that are near have drawn themselves
    page.screenshot(path=file)
    with Image.open(file) as image:
        picture = image.convert("RGB")
    picture.save(file, optimize=True)
    return picture
