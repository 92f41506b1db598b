"""The report in a real Chromium: it loads without a complaint, and what can be clicked, typed and copied works."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from runs import attnbench, edit, only_cell, record, tiny, until
from test_report import add_measurement, as_shown, measured

from attnbench.report import serve
from attnbench.report.collect import PageData
from attnbench.report.page import render, write_report
from attnbench.store.pictures import PairPictures

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEADS = "synthetic:train=4:test=8:size=16"
LABELS = ["SCFT", "CMFT", "SGA"]
PATIENCE = 120_000  # milliseconds that a page may take to be as it should


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
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
        context.set_default_timeout(PATIENCE)
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


def draw_figure(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.new("RGB", (700, 400), "silver").save(file)


@pytest.fixture
def page(trained: Path, opened: Callable[..., Page]) -> Page:
    return opened(trained / "report.html")


def wait_for(page: Page, expression: str, argument: Any = None) -> None:
    """As `page.wait_for_function`, which cannot look a second time: the page's policy forbids eval."""
    until(lambda: page.evaluate(expression, argument))


def through(page: Page) -> None:
    """Scroll from top to bottom, as a reader does: plots and pictures are made when they come into view."""
    for y in range(0, page.evaluate("document.body.scrollHeight"), 400):
        page.evaluate(f"scrollTo({{top: {y}, behavior: 'instant'}})")
        page.wait_for_timeout(50)


def first_column(page: Page) -> list[str]:
    return page.locator(".results tbody th").all_inner_texts()


def clipboard(page: Page, what: str) -> str:
    wait_for(page, "what => document.getElementById('message').textContent === `${what} copied`", what)
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_plots_are_drawn_when_they_come_into_view_with_words_for_who_cannot_see_them(page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 200})
    page.reload()
    assert page.evaluate("window.Plotly === undefined")  # five megabytes that nobody has to wait for
    through(page)
    every = "[...document.querySelectorAll('.plot')]"
    wait_for(page, f"{every}.length > 4 && {every}.every(plot => plot.querySelector('.main-svg'))")
    captions = page.locator("#curve-panels figcaption").all_inner_texts()
    assert captions[:2] == ["match over epochs", "Reconstruction loss"]  # the metric that chooses the best epoch first
    assert "SSIM (windowed) over epochs" in captions
    for plot in page.locator(".plot").all():
        text = plot.get_attribute("aria-label") or ""
        assert plot.get_attribute("role") == "img"
        assert all(label in text for label in LABELS)
    lines = page.locator("#curve-panels .plot").first.locator(".scatterlayer .trace").count()
    assert lines == len(LABELS)


def test_hiding_a_module_takes_it_out_of_every_plot(page: Page) -> None:
    through(page)
    page.locator("#costs .legend button", has_text="CMFT").click()
    traces = "document.querySelector('#curve-panels .plot').querySelectorAll('.scatterlayer .trace').length"
    through(page)
    wait_for(page, f"{traces} === 2")
    assert page.locator("#curves .legend button", has_text="CMFT").get_attribute("aria-pressed") == "false"


def column_of(page: Page, title: str) -> dict[str, float]:
    """A column's numbers by the labels of the rows; the rows' own heads are no cells."""
    titles = [" ".join(one.split()) for one in page.locator(".results th[aria-sort]").all_inner_texts()]
    (place,) = [place for place, one in enumerate(titles) if one.startswith(title)]
    cells = page.locator(f".results tbody tr td:nth-of-type({place})").all()
    return dict(zip(first_column(page), (float(cell.get_attribute("data-number") or "nan") for cell in cells), strict=True))


def test_columns_sort_both_ways_by_mouse_and_by_key(page: Page) -> None:
    head = page.locator(".results th[aria-sort]", has_text="SSIM (global)")
    assert first_column(page) == LABELS
    values = column_of(page, "SSIM (global)")  # as the page has them, rounded: rows with equal ones keep their order
    best_first = sorted(LABELS, key=values.__getitem__, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"  # more is better: the best on top
    assert first_column(page) == best_first
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(page) == sorted(best_first, key=values.__getitem__)
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
    wait_for(page, "[...document.querySelectorAll('#grid tbody tr:first-child img')].every(image => image.naturalWidth === 16)")
    tile = tiles.first
    assert not tile.locator(".over").is_visible()
    tile.hover()
    assert tile.locator(".over").is_visible()
    row = (measured(only_cell(trained, "scft")) / "pairs.csv").read_text().splitlines()
    scores = dict(zip(row[0].split(","), row[1].split(","), strict=True))
    assert f"SSIM (windowed) {float(scores['ssim']):.3f}" in tile.locator(".over").inner_text()
    assert f"{scores['sketch']} coloured after {scores['reference']}" in (tile.get_attribute("aria-label") or "")


def test_each_protocol_has_its_view_with_the_datasets_curves(store: Path, opened: Callable[..., Page]) -> None:
    for name in ("sga", "scft"):
        add_measurement(only_cell(store, name))
    page = opened(write_report(store, pairs=3))
    choice = page.locator("#pictures select.view")
    assert choice.locator("option").all_inner_texts() == ["synthetic", "synthetic, same"]
    assert page.locator("#grid thead th").count() == 2 + 3
    choice.select_option("synthetic, same")
    assert page.locator("#grid thead th").count() == 2 + 2
    through(page)
    captions = page.locator("#curve-panels figcaption").all_inner_texts()
    assert captions[0] == "match over epochs"  # by which the best epoch is chosen
    assert "Reconstruction loss" in captions


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
    return base64.b64decode(str(page.locator("#shown").get_attribute("src")).partition("base64,")[2])


class Kept:
    """A cell's pictures as the page shows them: a lossy copy of what was kept without loss."""

    def __init__(self, cell: Path) -> None:
        self._kept = PairPictures(measured(cell))

    def generated(self, pair: int) -> bytes:
        return as_shown(self._kept.generated(pair))

    def original(self, pair: int) -> bytes:
        return as_shown(self._kept.original(pair))


def test_a_pair_is_enlarged_flipped_in_place_and_left_by_keyboard(page: Page, trained: Path) -> None:
    kept = {label: Kept(only_cell(trained, label.lower())) for label in LABELS}
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
    page.locator("#next").focus()
    for _ in range(9):  # at the last pair, and farther
        page.keyboard.press("Enter")
    assert page.locator("#enlarged-title").inner_text().endswith("(pair 5 of 5)")
    assert page.locator("#next").get_attribute("aria-disabled") == "true"
    page.keyboard.press("ArrowUp")
    assert page.locator("#enlarged-title").inner_text().endswith("(pair 4 of 5)")
    page.locator("#given figcaption").first.click()  # which takes the focus from all controls
    page.keyboard.press("Space")
    assert page.locator("#whose").inner_text() == "B: SGA"
    page.keyboard.press("Space")
    for _ in range(2):
        page.keyboard.press("ArrowUp")
    assert shown(page) == kept["SCFT"].generated(spread[1])
    page.locator("#side-b").select_option(label="original")
    assert shown(page) == kept["SCFT"].original(spread[1])
    page.locator("#flip").focus()
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
    ink = "document.querySelector('#curve-panels .plot .xtitle')?.style.fill"
    wait_for(page, ink)
    light_ink = page.evaluate(ink)
    button.click()
    assert page.evaluate(paper) == dark
    through(page)
    wait_for(page, f"{ink} && {ink} !== {json.dumps(light_ink)}")


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
    edit(folder, module=changed)
    page = opened(write_report(store, pairs=3))
    through(page)
    assert name in first_column(page)
    assert page.title() == "store · attnbench"
    assert page.locator("img[src=x]").count() == 0


def test_a_modules_name_is_no_mark_up_of_a_plot(store: Path, opened: Callable[..., Page]) -> None:
    folder = only_cell(store, "sga")
    name = '<a href="https://evil.example/">%{x}</a> <b>&lt;'
    edit(folder, module={**record(folder)["module"], "name": "mine", "label": name})
    page = opened(write_report(store, pairs=3))
    through(page)
    wait_for(page, "document.querySelectorAll('#scatter .plot .textpoint').length === 6")
    assert name in page.locator("#scatter .textpoint").all_text_contents()
    place = page.locator("#scatter .plot").first.locator(".textpoint", has_text="evil").locator("xpath=..").bounding_box()
    assert place is not None
    page.locator("#costs").scroll_into_view_if_needed()
    labels = page.locator("#scatter .plot").first.evaluate("plot => plot.data.map(trace => trace.text[0])")
    own = ["plot, k", "Plotly.Fx.hover(plot, [{curveNumber: k, pointNumber: 0}])"]
    page.locator("#scatter .plot").first.evaluate(
        f"({own[0]}) => {own[1]}", next(k for k, text in enumerate(labels) if "evil" in text)
    )
    assert page.locator("#scatter .hovertext").first.text_content().startswith(name)
    assert page.locator("svg a").count() == 0
    assert page.locator("svg [style*='bold']", has_text="evil").count() == 0


@pytest.mark.parametrize("width", [800, 1000, 1200, 1600])
def test_the_enlarged_view_cuts_nothing_off(width: int, store: Path, opened: Callable[..., Page]) -> None:
    folder = only_cell(store, "sga")
    label = "SGA without its stop-gradient and withoutadoublenormalization"
    edit(folder, module={**record(folder)["module"], "name": "mine", "label": label})
    page = opened(write_report(store, pairs=3), viewport={"width": width, "height": 900})
    page.locator("#grid button.tile").first.click()
    page.locator("#side-b").select_option(label=label)
    dialog = page.locator("#enlarged")
    assert dialog.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert dialog.evaluate("node => node.scrollHeight <= node.clientHeight")
    edge = dialog.bounding_box()
    for cell in page.locator("#scores td, #side-a, #side-b").all():
        box = cell.bounding_box()
        assert box is not None
        assert edge is not None
        assert box["x"] + box["width"] <= edge["x"] + edge["width"] - 10


def test_figures_of_analyses_come_when_they_are_in_sight(store: Path, opened: Callable[..., Page]) -> None:
    for name in ("sga", "scft"):
        draw_figure(only_cell(store, name) / "analysis" / "spectrum.png")
    page = opened(write_report(store, pairs=3), viewport={"width": 1280, "height": 300})
    assert page.locator("#analyses img[src]").count() == 0
    first, second = page.locator("#analyses details").all()
    through(page)
    wait_for(page, "document.querySelector('#analyses img').naturalWidth === 700")
    assert second.locator("img[src]").count() == 0
    second.locator("summary").click()
    second.locator("img").scroll_into_view_if_needed()
    wait_for(page, "[...document.querySelectorAll('#analyses img')].every(image => image.naturalWidth === 700)")
    box, room = first.locator("img").bounding_box(), page.locator("#analyses").bounding_box()
    assert box is not None
    assert room is not None
    assert 0.4 * room["width"] < box["width"] < 0.55 * room["width"]


def test_paper_has_the_pictures_and_plots_that_were_not_in_sight(
    store: Path, opened: Callable[..., Page], tmp_path: Path
) -> None:
    page = opened(write_report(store, pairs=3), viewport={"width": 1280, "height": 300})
    unseen = "document.querySelectorAll('img[data-place]:not([src]), .plot:not(:has(svg))').length"
    assert page.evaluate(unseen) > 10
    page.pdf(path=tmp_path / "report.pdf")
    assert page.evaluate(unseen) == 0


def test_an_old_store_without_pictures_and_logs_says_so(store: Path, opened: Callable[..., Page]) -> None:
    for folder in store.glob("*-seed0-*"):
        shutil.rmtree(folder / "measured")
        for name in ("losses.jsonl", "evaluations.jsonl"):
            (folder / name).unlink()
    page = opened(write_report(store, pairs=3))
    through(page)
    assert "cells of earlier versions have none" in page.locator("#grid-note").inner_text()
    assert "has kept its losses" in page.locator("#curve-note").inner_text()


@pytest.fixture
def served(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the store's live page, which looks for news ten times as often as usual."""

    def render_quick(report: PageData, live: str) -> str:
        page = render(report, live)
        for name, usual in (("POLL", 2000), ("STILL", 4000)):
            assert page.count(f"const {name} = {usual};") == 1
            page = page.replace(f"const {name} = {usual};", f"const {name} = {usual // 10};")
        return page

    monkeypatch.setattr(serve, "render", render_quick)
    with serve._Server(0) as server:
        server.site = serve.Site(store, 8)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{serve.HOST}:{server.server_port}/"
        server.shutdown()
        thread.join()


def start(folder: Path, step: int = 1) -> None:
    """As a cell that runs looks."""
    progress = {"phase": "training", "step": step, "total": 4, "device": "cpu"}
    (folder / "progress.json").write_text(json.dumps(progress))
    edit(folder, status="running")


def test_a_page_that_is_served_follows_the_store_and_keeps_the_readers_place(
    store: Path, served: str, opened: Callable[..., Page]
) -> None:
    sga, scft, cmft = (only_cell(store, name) for name in ("sga", "scft", "cmft"))
    for folder in (scft, cmft):
        draw_figure(folder / "analysis" / "spectrum.png")
    edit(cmft, status="failed", failure={"message": "broke", "traceback": "T"})
    page = opened(served, viewport={"width": 600, "height": 500})
    page.get_by_label("costs", exact=True).check()
    page.locator("#cost-1").select_option(label="GFLOP per image, generator")
    page.locator("#quality").select_option(label="SSIM (windowed)")
    page.locator("#pair-set").select_option("worst SCFT")
    page.locator("#pair-set").select_option("spread ")
    page.locator("#tile").fill("256")
    page.locator("#troubles > summary").click()
    page.locator("#analyses details > summary").last.click()
    page.locator("#cells .cell > summary").first.click()
    page.evaluate("document.getElementById('pairs').scrollTo({top: 321, left: 60, behavior: 'instant'})")
    page.locator("#filter").fill("synthetic")
    page.evaluate("scrollTo({top: document.getElementById('pictures').offsetTop - 90, behavior: 'instant'})")
    with page.expect_event("load"):
        start(sga)
    wait_for(page, "document.getElementById('pairs').scrollTop === 321")
    wait_for(page, "document.getElementById('pairs').scrollLeft === 60")
    title = "document.getElementById('pictures-title').getBoundingClientRect()"
    wait_for(page, f"Math.abs({title}.y - 90) <= 1")  # though above it a board came, and a table lost a row of numbers
    wait_for(page, "document.activeElement.id === 'filter'")
    assert page.locator(".board progress").get_attribute("value") == "25.0"
    assert page.get_by_label("costs", exact=True).is_checked()
    assert page.locator("#cost-1").input_value() == "GFLOP per image, generator"
    assert page.locator("#quality").input_value() == "SSIM (windowed)"
    assert page.locator("#pair-set").input_value() == "spread "
    assert page.locator("#troubles").get_attribute("open") is None
    assert page.locator("#analyses details[open]").count() == 2
    assert page.locator("#cells .cell[open]").count() == 1
    (sga / "progress.json").write_text(json.dumps({"phase": "training", "step": 3, "total": 4, "device": "cpu"}))
    page.wait_for_selector(".board progress[value='75.0']")
    assert page.locator(".counts .running").inner_text() == "◐ 1 running"


def test_a_page_is_not_taken_from_a_reader_who_is_at_something(store: Path, served: str, opened: Callable[..., Page]) -> None:
    page = opened(served)
    through(page)
    newer = page.locator("#newer")
    wait_for(page, "document.querySelector('#scatter .plot .main-svg')")
    page.evaluate("Plotly.relayout(document.querySelector('#scatter .plot'), {'yaxis.range': [0, 2]})")  # as a zoom does
    page.evaluate("window.same = true")
    start(only_cell(store, "sga"))
    newer.wait_for()
    page.wait_for_timeout(500)  # until the reader is still
    for _ in range(2):  # and the page has looked again
        page.wait_for_event("response", lambda answer: answer.url.endswith("/live"))
    assert page.evaluate("window.same")
    with page.expect_event("load"):
        newer.click()
    assert page.locator(".counts .running").inner_text() == "◐ 1 running"
    assert not newer.is_visible()


def test_a_page_outlives_what_cannot_be_shown(store: Path, served: str, browser: Browser) -> None:
    page = browser.new_page()  # whose console tells of the 503
    page.set_default_timeout(PATIENCE)
    page.goto(served)
    with page.expect_response(lambda answer: answer.status == 503):
        aside = store.rename(store.with_name("aside"))
        page.wait_for_selector("text=The page cannot be made: there is no results folder")
    aside.rename(store)
    page.wait_for_selector("#tables")
    page.close()
