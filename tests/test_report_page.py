"""The report in a real Chromium: it loads without a complaint, and what can be clicked, typed and copied works."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from runs import attnbench, only_cell, record, tiny

from attnbench.pictures import PairPictures
from attnbench.report.page import write_report
from attnbench.report.serve import serve
from attnbench.store import CellFolder

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEADS = "synthetic:train=4:test=8:size=16"
LABELS = ["SCFT", "CMFT", "SGA"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        store = tmp_path_factory.mktemp("trained")
        assert attnbench(*tiny(store, "sga,scft,cmft", HEADS, evaluation__when="each_epoch")).code == 0
        write_report(store, pairs=5)
        return store


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "store"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium on the path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """opened(address or file): the page; whatever it says on the console, or asks of the network, fails the test."""
    complaints: list[str] = []
    contexts = []

    def load(target: Path | str, **settings: Any) -> Page:
        settings = {"viewport": {"width": 1280, "height": 900}, **settings}
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        home = "http://127.0.0.1" if isinstance(target, str) else "file:"
        allowed = (home, "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else complaints.append(asked.url))
        page.goto(target if isinstance(target, str) else target.as_uri())
        return page

    yield load
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(trained: Path, opened: Callable[..., Page]) -> Page:
    return opened(trained / "report.html")


def through(page: Page) -> None:
    """Scroll from top to bottom, as a reader does: plots and pictures are made when they come into view."""
    for y in range(0, page.evaluate("document.body.scrollHeight"), 400):
        page.evaluate(f"scrollTo({{top: {y}, behavior: 'instant'}})")
        page.wait_for_timeout(50)


def first_column(page: Page) -> list[str]:
    return page.locator(".results tbody th").all_inner_texts()


def clipboard(page: Page, what: str) -> str:
    page.wait_for_function("what => document.getElementById('said').textContent === `${what} copied`", arg=what)
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_plots_are_drawn_when_they_come_into_view_with_words_for_who_cannot_see_them(page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 200})
    page.reload()
    assert page.evaluate("window.Plotly === undefined")  # five megabytes that nobody has to wait for
    through(page)
    every = "[...document.querySelectorAll('.plot')]"
    page.wait_for_function(f"{every}.length > 4 && {every}.every(plot => plot.querySelector('.main-svg'))")
    captions = page.locator("#curve-panels figcaption").all_inner_texts()
    assert captions[0] == "Reconstruction loss"
    assert "SSIM (global) over epochs" in captions
    for plot in page.locator(".plot").all():
        said = plot.get_attribute("aria-label") or ""
        assert plot.get_attribute("role") == "img"
        assert all(label in said for label in LABELS)
    lines = page.locator("#curve-panels .plot").first.locator(".scatterlayer .trace").count()
    assert lines == len(LABELS)


def test_hiding_a_module_takes_it_out_of_every_plot(page: Page) -> None:
    through(page)
    page.locator("#costs .legend button", has_text="CMFT").click()
    traces = "document.querySelector('#curve-panels .plot').querySelectorAll('.scatterlayer .trace').length"
    through(page)
    page.wait_for_function(f"{traces} === 2")
    assert page.locator("#curves .legend button", has_text="CMFT").get_attribute("aria-pressed") == "false"


def test_columns_sort_both_ways_by_mouse_and_by_key(page: Page) -> None:
    head = page.locator(".results th[aria-sort]", has_text="SSIM (global)")
    cells = page.locator(".results tbody tr td:nth-of-type(1)")
    values = [float(cell.get_attribute("data-number") or "nan") for cell in cells.all()]
    assert first_column(page) == LABELS
    best_first = [label for _, label in sorted(zip(values, LABELS, strict=True), reverse=True)]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"  # more is better: the best on top
    assert first_column(page) == best_first
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(page) == best_first[::-1]
    page.locator(".results .sort", has_text="module").first.click()
    assert head.get_attribute("aria-sort") == "none"
    assert first_column(page) == LABELS


def test_copies_are_what_is_shown(page: Page, trained: Path) -> None:
    arguments = ["table", trained, "--significance"]
    page.get_by_role("button", name="LaTeX").click()
    assert clipboard(page, "LaTeX of the table") == attnbench(*arguments, "-f", "latex").out
    page.get_by_label("costs", exact=True).check()
    page.get_by_role("button", name="Markdown").click()
    assert clipboard(page, "Markdown of the table") == attnbench(*arguments, "--costs", "-f", "md").out
    page.get_by_label("published numbers").check()
    page.get_by_role("button", name="CSV").click()
    assert clipboard(page, "CSV of the table") == attnbench("table", trained, "--published", "-f", "csv").out


def test_costs_and_published_numbers_come_on_demand(page: Page) -> None:
    cost, note = page.locator("th.cost", has_text="module (M)"), page.locator(".note.published")
    assert not cost.is_visible()
    assert not note.is_visible()
    page.get_by_label("costs", exact=True).check()
    page.get_by_label("published numbers").check()
    assert cost.is_visible()
    assert note.is_visible()


def test_pictures_come_when_they_are_in_sight_and_have_their_scores(page: Page, trained: Path) -> None:
    page.set_viewport_size({"width": 1280, "height": 300})
    page.reload()
    assert page.locator("#grid img[src]").count() == 0
    page.locator("#pictures").scroll_into_view_if_needed()
    through(page)
    tiles = page.locator("#grid button.tile")
    assert tiles.count() == 5 * len(LABELS)
    page.wait_for_function(
        "[...document.querySelectorAll('#grid tbody tr:first-child img')].every(image => image.naturalWidth === 16)"
    )
    tile = tiles.first
    assert not tile.locator(".over").is_visible()
    tile.hover()
    assert tile.locator(".over").is_visible()
    row = (only_cell(trained, "scft") / "pairs.csv").read_text().splitlines()
    scores = dict(zip(row[0].split(","), row[1].split(","), strict=True))
    assert f"SSIM (windowed) {float(scores['ssim']):.3f}" in tile.locator(".over").inner_text()
    assert f"{scores['sketch']} coloured after {scores['reference']}" in (tile.get_attribute("aria-label") or "")


def test_the_best_and_worst_pairs_of_a_module_can_be_chosen(page: Page) -> None:
    choice = page.locator("#pair-set")
    assert choice.locator("option").all_inner_texts()[:2] == [
        "5 pairs, spread over the test set",
        "3 pairs in which modules differ most",
    ]
    chosen = choice.locator("optgroup[label='worst pairs of'] option", has_text="SGA").get_attribute("value")
    choice.select_option(chosen)
    assert page.locator("#grid tbody tr").count() == 3
    assert page.locator("#grid th.chosen").inner_text().startswith("SGA")
    page.reload()
    assert page.locator("#grid th.chosen").inner_text().startswith("SGA")


def shown(page: Page) -> bytes:
    import base64

    return base64.b64decode(str(page.locator("#shown").get_attribute("src")).partition("base64,")[2])


def test_a_pair_is_enlarged_flipped_in_place_and_left_by_keyboard(page: Page, trained: Path) -> None:
    kept = {label: PairPictures(only_cell(trained, label.lower())) for label in LABELS}
    spread = np.unique(np.linspace(0, 7, 5).round().astype(int)).tolist()
    tile = page.locator("#grid button.tile").first
    tile.focus()
    page.keyboard.press("Enter")
    assert page.locator("#enlarged").is_visible()
    assert shown(page) == kept["SCFT"].generated(spread[0])
    place = page.locator("#shown").bounding_box()
    page.keyboard.press("Space")  # to the other side
    assert shown(page) == kept["CMFT"].generated(spread[0])
    assert page.locator("#shown").bounding_box() == place
    assert page.locator("#whose").inner_text() == "B: CMFT"
    page.keyboard.press("ArrowRight")  # another module on this side
    assert shown(page) == kept["SGA"].generated(spread[0])
    page.keyboard.press("ArrowDown")
    assert shown(page) == kept["SGA"].generated(spread[1])
    page.locator("#flip").click()
    assert shown(page) == kept["SCFT"].generated(spread[1])
    page.locator("#side-b").select_option(label="original")
    assert shown(page) == kept["SCFT"].original(spread[1])
    page.keyboard.press("Escape")
    assert not page.locator("#enlarged").is_visible()
    assert tile.evaluate("node => node === document.activeElement")


def test_cells_have_their_command_and_can_be_filtered(page: Page, trained: Path) -> None:
    page.get_by_role("searchbox").fill("sga finished")
    assert page.locator(".cell:visible").count() == 1
    assert page.locator("#filtered").inner_text() == "1 of 3"
    cell = page.locator(".cell:visible")
    cell.locator("summary").first.click()
    cell.get_by_role("button", name="copy").click()
    assert clipboard(page, "Command").startswith(f"attnbench run --recipe {only_cell(trained, 'sga') / 'recipe.yaml'}")
    cell.get_by_role("link", name=re.compile("demo with")).click()
    assert "residual_blocks: 1" in page.locator(".recipe[open] pre").inner_text()


def test_light_and_dark_follow_the_system_until_one_is_chosen(opened: Callable[..., Page], trained: Path) -> None:
    page = opened(trained / "report.html", color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    assert button.get_attribute("aria-label") == "Colours: light"
    assert page.evaluate(paper) != dark
    through(page)
    ink = "document.querySelector('#curve-panels .plot .xtitle').style.fill"
    page.wait_for_function(f"{ink} !== ''")
    light_ink = page.evaluate(ink)
    button.click()
    assert page.evaluate(paper) == dark
    through(page)
    page.wait_for_function(f"{ink} !== {json.dumps(light_ink)}")


@pytest.mark.parametrize("width", [390, 768])
def test_nothing_makes_a_narrow_page_scroll_sideways(width: int, opened: Callable[..., Page], trained: Path) -> None:
    page = opened(trained / "report.html", viewport={"width": width, "height": 844})
    page.get_by_label("costs", exact=True).check()
    page.locator(".cell summary").first.click()
    through(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("#grid button.tile").first.click()
    box = page.locator("#enlarged").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_everything_that_can_be_pressed_has_a_name_and_every_picture_its_words(page: Page) -> None:
    through(page)
    page.locator("#grid button.tile").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input')].filter(node =>
            !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length)).map(node => node.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.images].filter(image => !image.alt).length") == 0


def test_hostile_names_stay_text(store: Path, opened: Callable[..., Page]) -> None:
    folder = only_cell(store, "sga")
    name = "</script><img src=x onerror=document.title='taken'>"
    changed = {**record(folder)["module"], "name": name, "label": name}
    CellFolder(folder).write_record({**record(folder), "module": changed})
    page = opened(write_report(store, pairs=3))
    through(page)
    assert name in first_column(page)
    assert page.title() == "store · attnbench"
    assert page.locator("img[src=x]").count() == 0


def test_an_old_store_without_pictures_and_logs_says_so(store: Path, opened: Callable[..., Page]) -> None:
    for folder in store.glob("*-seed0-*"):
        for name in ("pictures.zip", "losses.jsonl", "evaluations.jsonl", "pairs.csv"):
            (folder / name).unlink()
    page = opened(write_report(store, pairs=3))
    through(page)
    assert "cells of earlier versions have none" in page.locator("#grid-words").inner_text()
    assert "has kept its losses" in page.locator("#curve-words").inner_text()


def test_a_page_that_is_served_follows_the_store(store: Path, opened: Callable[..., Page]) -> None:
    addresses: list[str] = []
    told = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        told.set()

    threading.Thread(
        target=serve, args=(store, 0), kwargs={"pairs": 3, "say": pytest.fail, "ready": ready}, daemon=True
    ).start()
    assert told.wait(30)
    page = opened(addresses[0])
    page.get_by_label("costs", exact=True).check()
    page.evaluate("scrollTo({top: 500, behavior: 'instant'})")
    folder = only_cell(store, "sga")
    progress = {"phase": "training", "step": 1, "total": 4, "device": "cpu"}
    (folder / "progress.json").write_text(json.dumps(progress))
    CellFolder(folder).write_record({**record(folder), "status": "running"})
    page.wait_for_selector(".board", timeout=20_000)
    assert page.locator(".board progress").get_attribute("value") == "25.0"
    assert page.get_by_label("costs", exact=True).is_checked()
    assert page.evaluate("scrollY") == 500
    (folder / "progress.json").write_text(json.dumps({**progress, "step": 3}))
    page.wait_for_selector(".board progress[value='75.0']", timeout=20_000)
    assert page.locator(".counts .running").inner_text() == "◐ 1 running"
