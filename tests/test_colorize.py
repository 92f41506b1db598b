"""Colouring pictures of any size and kind with a trained generator."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from runs import attnbench, install_module, only_cell, record, tiny, tree

import attnbench as library
from attnbench.colorization import colorize_files as colorize_files_module
from attnbench.colorization.coloring import working_frame
from attnbench.colorization.colorize_files import colorize_files
from attnbench.colorization.line_art import Lines, cleaned, extracted, redrawn
from attnbench.colorization.picture_files import backdrop, read_picture
from attnbench.config.recipe import Sketch
from attnbench.data.batches import pair_batch
from attnbench.data.images import ImageSet
from attnbench.data.synthetic import draw
from attnbench.errors import UserError
from attnbench.method.backbone import Colorizer
from attnbench.metrics.generate import to_bytes
from attnbench.store.generators import recipe_of


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that works at 16 pixels, whose line art has one sigma."""
    store = tmp_path_factory.mktemp("store")
    assert attnbench(*tiny(store, data__sketch__sigma="[0.4]", data__sketch__at="native")).code == 0
    return only_cell(store)


@pytest.fixture(scope="module")
def generator(cell: Path) -> Colorizer:
    return library.load(cell)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a drawing, `a.png`, of 90 x 60 pixels, and a coloured picture, `b.png`."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    drawing((90, 60)).save(folder / "a.png")
    draw(0, 1, 48).save(folder / "b.png")
    return folder


def drawing(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Black lines on white, mode L."""
    return ImageOps.fit(extracted(draw(0, 0, 256), (256, 256), Sketch(sigma=(0.5,))), size)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
    return picture


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=float)


def one_line(err: str) -> str:
    (line,) = err.splitlines()
    return line


def colorize(cell: Path, folder: Path, *options: str | Path) -> tuple[int, str, str]:
    where = ["-s", folder / "a.png", "-r", folder / "b.png", "-o", folder / "out.png"]
    outcome = attnbench("colorize", "-m", cell, *where, "--device", "cpu", *options)
    return outcome.code, outcome.out, outcome.err


def test_it_gives_what_an_evaluation_gives(generator: Colorizer) -> None:
    """A square picture with `extract` goes the way of a test pair, to the bit."""
    heads = torch.stack([torch.from_numpy(np.array(draw(0, index, 16))).permute(2, 0, 1) for index in (0, 1)])
    images = ImageSet(["a", "b"], heads, None, torch.tensor([0.4, 0.4]))
    batch = pair_batch(images, [(0, 1)], data=recipe_of(generator).data, device=torch.device("cpu"))
    with torch.no_grad():
        wanted = to_bytes(generator(batch.sketch, batch.reference))[0].permute(1, 2, 0).numpy()
    made = library.colorize(generator, draw(0, 0, 16), draw(0, 1, 16), extract=True)
    assert np.array_equal(np.asarray(made), wanted)


@pytest.mark.parametrize("size", [(16, 16), (90, 60), (33, 77), (17, 400)])
def test_the_result_has_the_drawings_size(size: tuple[int, int], generator: Colorizer) -> None:
    assert library.colorize(generator, drawing(size), draw(0, 1, 20)).size == size
    assert library.colorize(generator, drawing(size), draw(0, 1, 20), size=0).size == size


def test_the_colours_depend_on_the_reference_and_the_folder_will_do_for_the_generator(cell: Path) -> None:
    results = [
        array(library.colorize(cell, drawing(), Image.new("RGB", (40, 30), colour))) for colour in ("red", "blue", "red")
    ]
    assert not np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("size", "shorter", "levels", "frame", "padded"),
    [
        ((256, 256), 64, 4, (64, 64), (64, 64)),
        ((180, 300), 64, 4, (64, 107), (64, 112)),
        ((100, 50), 0, 5, (100, 50), (112, 64)),
        ((20, 20), 0, 5, (20, 20), (32, 32)),
    ],
)
def test_frames(size: tuple[int, int], shorter: int, levels: int, frame: tuple[int, int], padded: tuple[int, int]) -> None:
    found = working_frame(size, shorter, levels)
    assert (found.size, found.padded) == (frame, padded)


@pytest.mark.parametrize("size", [(8000, 8000), (8000, 3000)])
def test_a_frame_that_is_too_large_says_which_size_fits(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"--size \d+ or less fits") as refused:
        working_frame(size, 0, 5)
    fits = int(str(refused.value).split("--size ")[1].split()[0])
    assert max(working_frame(size, fits, 5).size) > 1000


def pencil(lines: Image.Image) -> Image.Image:
    ink = 1 - array(lines.filter(ImageFilter.GaussianBlur(0.6)))[..., None] / 255
    paper = np.array([238.0, 232, 218]) - np.random.default_rng(0).normal(0, 3, ink.shape)
    return Image.fromarray((paper + ink * (np.array([100, 100, 108]) - paper)).clip(0, 255).astype(np.uint8))


def transparent(lines: Image.Image) -> Image.Image:
    picture = Image.new("RGBA", lines.size, "black")
    picture.putalpha(ImageOps.invert(lines))
    return picture


def sixteen_bit(lines: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(lines).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "kind",
    [
        pencil,
        ImageOps.invert,
        transparent,
        sixteen_bit,
        lambda lines: lines.convert("RGB").convert("CMYK"),
        lambda lines: lines.convert("P"),
        lambda lines: lines.convert("1"),
        lambda lines: pencil(ImageOps.invert(lines)),
    ],
    ids=["pencil", "inverted", "transparent", "16 bit", "CMYK", "palette", "1 bit", "pencil on dark"],
)
def test_drawings_of_every_kind_become_the_same_black_on_white(
    kind: Callable[[Image.Image], Image.Image], tmp_path: Path
) -> None:
    lines = drawing((256, 256))
    path = tmp_path / "drawing.tif"
    kind(lines).save(path)
    found = array(cleaned(read_picture(path).convert("L")))
    assert (found.min(), found.max()) == (0, 255)
    wanted = array(lines)
    assert found[wanted == 255].mean() > 235  # antialiasing darkens what is beside a line
    assert found[wanted == 0].mean() < 60


def test_a_clean_drawing_stays_as_it_is_and_keep_keeps_any() -> None:
    lines = drawing((256, 256)).point([0] * 128 + [255] * 128)
    assert np.array_equal(array(cleaned(lines)), array(lines))
    grey = pencil(lines).convert("L")
    assert cleaned(grey, "keep") is grey


def test_lines_can_be_said_to_be_dark_or_light() -> None:
    """A drawing that is mostly dark, but of dark areas on white paper."""
    heavy = drawing((64, 64))
    heavy.paste(0, (0, 0, 64, 56))
    assert np.array_equal(array(cleaned(heavy, "dark")), array(heavy))
    assert np.array_equal(array(cleaned(heavy, "auto")), array(ImageOps.invert(heavy)))
    assert np.array_equal(array(cleaned(heavy, "light")), array(cleaned(heavy, "auto")))


def test_thin_lines_of_large_drawings_do_not_fade() -> None:
    thin = Image.new("L", (1600, 1600), 255)
    thin.paste(0, (800, 0, 804, 1600))
    assert array(redrawn(thin, (64, 64), Sketch(at="native"))).min() < 192
    assert array(redrawn(thin, (64, 64), Sketch(), lines="keep")).min() > 224


def circle(side: int, width: int) -> Image.Image:
    """Black on white, mode L: a circle and two lines, `width` pixels wide."""
    picture = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side), outline=0, width=width)
    pen.line((0.1 * side, 0.1 * side, 0.9 * side, 0.7 * side), fill=0, width=width)
    pen.arc((0.35 * side, 0.5 * side, 0.65 * side, 0.7 * side), 0, 180, fill=0, width=width)
    return picture


def mean_ink(picture: Image.Image) -> float:
    return float(255 - array(picture).mean())


@pytest.mark.parametrize("at", ["native", "target"])
def test_what_the_network_sees_does_not_hang_on_the_drawings_size(at: Literal["native", "target"]) -> None:
    """Neither from one size to the next nor over many, though the lines stay two pixels wide."""
    seen = {
        side: mean_ink(redrawn(circle(side, 2), (64, 64), Sketch(at=at)))
        for side in (255, 256, 257, 511, 512, 513, 1024, 2048, 4096)
    }
    middle = seen[512]
    assert middle > 3
    assert all(abs(ink - middle) < (0.08 if at == "native" else 0.35) * middle for ink in seen.values()), seen
    if at == "native":
        assert max(abs(seen[side] - middle) for side in (511, 513)) < 0.02 * middle


def test_what_the_network_sees_of_line_art_like_the_trainings_is_about_as_dark_as_in_training() -> None:
    """The lines of XDoG, of pictures of the training's size and of larger ones, whose lines are thinner."""
    for index in range(3):
        wanted = mean_ink(extracted(draw(0, index, 128), (64, 64), Sketch(), 128))
        for side in (128, 256, 512, 1024):
            lines = extracted(draw(0, index, side), (side, side), Sketch(), side)
            assert 0.6 * wanted < mean_ink(redrawn(lines, (64, 64), Sketch())) < 1.7 * wanted


def test_black_areas_do_not_hide_thin_lines() -> None:
    thin = circle(2048, 2)
    heavy = thin.copy()
    heavy.paste(0, (0, 1950, 2048, 2048))
    for x in (900, 1100):  # pupils
        heavy.paste(0, (x, 700, x + 60, 800))
    assert array(redrawn(heavy, (64, 64), Sketch()))[:20].min() < 160


@pytest.fixture
def large_sheet() -> Callable[[tuple[int, int], int], Image.Image]:
    """large_sheet((8000, 6000), 4): a white sheet as printers scan it, with a circle that is 4 px wide."""
    return lambda size, width: ImageOps.pad(circle(min(size), width), size, color=255)


@pytest.mark.parametrize(("size", "width"), [((8000, 8000), 4), ((4960, 7016), 2), ((2480, 3508), 2)])
def test_thin_lines_of_large_sheets_are_no_blank(
    size: tuple[int, int], width: int, generator: Colorizer, large_sheet: Callable[[tuple[int, int], int], Image.Image]
) -> None:
    sheet = large_sheet(size, width)
    assert mean_ink(redrawn(sheet, (64, 64), Sketch())) > 5
    assert library.colorize(generator, sheet, draw(0, 1, 32)).size == size


def test_padding_is_white_and_cut_off_again(generator: Colorizer) -> None:
    """33 x 16 pixels make a frame of 36 x 16 for three levels; nothing is resized."""
    sketch, reference = drawing((33, 16)).point([0] * 128 + [255] * 128), draw(0, 1, 36).crop((0, 10, 36, 26))
    lines, colours = torch.ones(1, 1, 16, 36), torch.from_numpy(np.array(reference)).permute(2, 0, 1)[None] / 127.5 - 1
    lines[..., :33] = torch.from_numpy(np.array(sketch)) / 127.5 - 1
    with torch.no_grad():
        wanted = to_bytes(generator(lines, colours))[0, :, :, :33].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(library.colorize(generator, sketch, reference, size=0)), wanted)


def test_line_art_is_drawn_at_the_size_of_the_trainings_pictures(cell: Path, tmp_path: Path) -> None:
    """Of the four heads, 16 pixels; where the record does not say it, 512."""
    assert record(cell)["dataset"]["side"] == 16
    old = tmp_path / "old"
    shutil.copytree(cell, old)
    stored = record(old)
    del stored["dataset"]["side"]
    (old / "cell.json").write_text(json.dumps(stored))
    head, colours = draw(0, 0, 600), draw(0, 1, 32)
    sketch = recipe_of(library.load(cell)).data.sketch
    for folder, side in ((cell, 16), (old, 512)):
        drawn = extracted(head, (16, 16), sketch, side)
        wanted = library.colorize(folder, drawn, colours.resize((16, 16), Image.Resampling.BILINEAR), lines="keep")
        found = library.colorize(folder, head, colours, extract=True).resize((16, 16), Image.Resampling.BOX)
        assert np.abs(array(found) - array(wanted)).mean() < 3
    assert mean_ink(extracted(head, (16, 16), sketch, 16)) > mean_ink(extracted(head, (16, 16), sketch, 512)) + 5


def test_where_training_drew_at_its_own_size_drawings_are_black_and_white() -> None:
    lines = drawing((256, 256))
    assert set(np.unique(array(redrawn(lines, (64, 64), Sketch(at="target"))))) == {0, 255}
    assert len(np.unique(array(redrawn(lines, (64, 64), Sketch(at="native"))))) > 10


def test_extraction_follows_the_recipe() -> None:
    head = draw(0, 0, 128)
    native, target = (extracted(head, (32, 32), Sketch(sigma=(0.5,), at=at)) for at in ("native", "target"))
    assert len(np.unique(array(native))) > 2
    assert set(np.unique(array(target))) == {0, 255}
    assert native.size == target.size == (32, 32)


def test_a_photograph_lies_as_its_camera_was_held(tmp_path: Path, generator: Colorizer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    drawing((90, 60)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as lying:
        assert library.colorize(generator, lying, draw(0, 1, 48)).size == (60, 90)


@pytest.mark.parametrize("named", [".", "generator.safetensors", "cell.json"])
def test_the_command_writes_what_the_function_gives(named: str, cell: Path, pictures: Path) -> None:
    made = pictures / "new" / "folder" / "c.png"
    where = ["-s", pictures / "a.png", "-r", pictures / "b.png", "-o", made]
    outcome = attnbench("colorize", "-m", cell / named, *where, "--side-by-side")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{made}: a.png with the colours of b.png\n"
    wanted = library.colorize(cell, opened(pictures / "a.png"), opened(pictures / "b.png"))
    assert np.array_equal(array(opened(made)), array(wanted))
    sides = opened(made.with_name("c.side-by-side.png"))
    assert sides.height == 60
    assert sides.width >= 3 * 88
    assert {path.name for path in made.parent.iterdir()} == {"c.png", "c.side-by-side.png"}


def test_a_picture_can_be_its_own_sketch_and_reference(cell: Path, pictures: Path) -> None:
    where = ["-s", pictures / "b.png", "-r", pictures / "b.png", "-o", pictures / "out.webp"]
    assert attnbench("colorize", "-m", cell, *where, "--extract").code == 0
    assert opened(pictures / "out.webp").size == (48, 48)


def test_a_folder_is_coloured_but_for_what_cannot_be_read(cell: Path, pictures: Path, tmp_path: Path) -> None:
    sketches, references = tmp_path / "sketches", tmp_path / "references"
    for folder in (sketches, references):
        folder.mkdir()
    for index, name in enumerate("abcde"):
        drawing((40, 50)).save(sketches / f"{name}.png")
        draw(0, index, 32).save(references / f"{name}.jpg")
    (sketches / "c.png").write_bytes(b"no picture")
    Image.new("L", (60, 60), 255).save(sketches / "e.png")
    (sketches / "notes.txt").write_text("not a picture, and not meant to be")
    outcome = attnbench("colorize", "-m", cell, "-s", sketches, "-r", references, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        f"left out: '{sketches / 'c.png'}' cannot be read: it is damaged or not a picture (BMP, GIF, JPEG, PNG, TIFF, WEBP)",
        f"left out: '{sketches / 'e.png'}' is blank: its tones hardly differ (--lines keep colours it anyway)",
        "2 could not be coloured",
    ]
    assert [line.split(": ")[1] for line in outcome.out.splitlines()] == [
        f"{name}.png with the colours of {name}.jpg" for name in "abd"
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "d.png"]


def folders(place: Path, sketches: str, references: str) -> tuple[Path, Path]:
    """Of drawings and of heads, files named by words."""
    for folder, names, picture in (("sketches", sketches, drawing((20, 20))), ("colours", references, draw(0, 1, 20))):
        (place / folder).mkdir()
        for name in names.split():
            picture.convert("RGB").save(place / folder / name)
    return place / "sketches", place / "colours"


@pytest.mark.parametrize(
    ("sketches", "references", "message"),
    [
        ("0.png 1.png 2.png", "1.png 2.png zz.png", "no reference in '{}/colours' for 0.png: give it the sketch's name, or"),
        ("a.png b.png", "x.png", "no reference in '{}/colours' for a.png, b.png: "),
        (" ".join(f"{i}.png" for i in range(7)), "x.png", "for 0.png, 1.png, 2.png, 3.png, 4.png and 2 more: "),
        ("0.png", "0.jpg 0.png", "'{}/colours/0.jpg' and '0.png' are references of the same name"),
        ("0.jpg 0.png", "0.jpg", "'0.jpg' and '0.png' would both become '0.png'"),
    ],
)
def test_folders_that_do_not_pair_by_name_are_refused(
    sketches: str, references: str, message: str, cell: Path, tmp_path: Path
) -> None:
    drawings, colours = folders(tmp_path, sketches, references)
    outcome = attnbench("colorize", "-m", cell, "-s", drawings, "-r", colours, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert message.format(tmp_path) in one_line(outcome.err)
    assert not (tmp_path / "out").exists()


def test_files_that_are_there_stay_unless_asked_for(cell: Path, pictures: Path) -> None:
    (pictures / "out.png").write_text("dear")
    (pictures / "out.side-by-side.png").write_text("dearer")
    before = tree(pictures)
    code, _, err = colorize(cell, pictures)
    assert code == 2
    assert one_line(err).endswith("/out.png' exists already: choose another place with -o, or pass --overwrite")
    code, _, err = colorize(cell, pictures, "--side-by-side")
    assert f"'{pictures / 'out.png'}' exists already, and 1 more: " in one_line(err)
    assert tree(pictures) == before
    assert colorize(cell, pictures, "--overwrite")[0] == 0
    assert opened(pictures / "out.png").size == (90, 60)
    assert (pictures / "out.side-by-side.png").read_text() == "dearer"
    (pictures / "out.png").unlink()
    assert colorize(cell, pictures, "--side-by-side")[0] == 2  # the sheet alone is in the way


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_sheet_takes_the_place_of_no_input_and_of_no_other_result(
    more: tuple[str, ...], cell: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copy(pictures / "b.png", pictures / "out.side-by-side.png")
    code, _, err = colorize(cell, pictures, "-r", pictures / "out.side-by-side.png", "--side-by-side", *more)
    assert code == 2
    assert f"'{pictures / 'out.side-by-side.png'}' is an input and would be overwritten" in one_line(err)
    drawings, _ = folders(tmp_path, "a.png a.side-by-side.png", "x.png")
    where = ["-s", drawings, "-r", pictures / "b.png", "-o", tmp_path / "out"]
    outcome = attnbench("colorize", "-m", cell, *where, "--side-by-side", *more)
    assert outcome.code == 2
    assert "'a.png' and 'a.side-by-side.png' would both become 'a.side-by-side.png'" in one_line(outcome.err)


def test_a_name_without_an_ending_is_a_folder(cell: Path, pictures: Path) -> None:
    assert colorize(cell, pictures, "-o", f"{pictures}/new/")[0] == 0
    assert [path.name for path in (pictures / "new").iterdir()] == ["a.png"]


def never(*arguments: object, **options: object) -> Any:
    raise AssertionError("the generator was loaded before what was given had been checked")


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("/proc/x", (), "'/proc/x/a.png' cannot be written (No such file or directory)"),
        ("{}/colours/a.png/x", (), "'{}/colours/a.png/x/a.png' cannot be written (Not a directory)"),
        ("{}/out", ("--size", "5000"), "none of the 2 sketches can be coloured: '{}/sketches/a.png' would be"),
        ("{}/" + "o" * 300, (), "' cannot be used: File name too long"),
        ("{}/circle", (), "'{}/circle' cannot be used: Too many levels of symbolic links"),
    ],
)
def test_what_concerns_a_whole_folder_is_said_once_and_before_the_work(
    output: str, options: tuple[str, ...], message: str, cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings, colours = folders(tmp_path, "a.png b.png", "a.png b.png")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.setattr(colorize_files_module, "load", never)
    where = ["-s", drawings, "-r", colours, "-o", output.format(tmp_path)]
    outcome = attnbench("colorize", "-m", cell, *where, *options)
    assert outcome.code == 2
    assert message.format(tmp_path) in one_line(outcome.err)
    assert {path.name for path in tmp_path.iterdir()} == {"sketches", "colours", "circle"}


def test_a_name_has_room_for_its_draft(cell: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """255 bytes: the name would fit, that of the draft would not."""
    monkeypatch.setattr(colorize_files_module, "load", never)
    code, _, err = colorize(cell, pictures, "-o", pictures / ("o" * 251 + ".png"))
    assert code == 2
    assert "cannot be written (File name too long)" in one_line(err)


def test_a_disk_that_fills_ends_the_run(cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    drawings, colours = folders(tmp_path, "a.png b.png", "a.png b.png")
    monkeypatch.setattr(Image.Image, "save", full)
    outcome = attnbench("colorize", "-m", cell, "-s", drawings, "-r", colours, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert f"'{tmp_path / 'out' / 'a.png'}' cannot be written (No space left on device)" in one_line(outcome.err)


def test_a_format_without_room_is_said_before_the_work(cell: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (16_384, 1_100), 255).save(pictures / "a.png")
    monkeypatch.setattr(colorize_files_module, "load", never)
    code, _, err = colorize(cell, pictures, "-o", pictures / "out.webp")
    assert code == 2
    assert "such files have at most 16,383 pixels a side, " in one_line(err)


def test_a_sketch_may_be_a_path_and_must_not_be_an_array(generator: Colorizer, pictures: Path) -> None:
    wanted = library.colorize(generator, opened(pictures / "a.png"), opened(pictures / "b.png"))
    assert np.array_equal(array(library.colorize(generator, str(pictures / "a.png"), pictures / "b.png")), array(wanted))
    with pytest.raises(UserError, match=r"there\.png' cannot be read: No such file"):
        library.colorize(generator, "there.png", opened(pictures / "b.png"))
    with pytest.raises(TypeError, match=r"reference: expected a Pillow image or a path, not ndarray"):
        library.colorize(generator, opened(pictures / "a.png"), np.zeros((20, 20, 3)))  # type: ignore[arg-type]


def test_a_callers_picture_stays_open(generator: Colorizer, tmp_path: Path) -> None:
    frames = [drawing((40, 40)), ImageOps.mirror(drawing((40, 40)))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as film:
        library.colorize(generator, film, draw(0, 1, 32))
        film.seek(1)
        assert film.convert("L").size == (40, 40)


@pytest.mark.parametrize("lines", ["auto", "light"])
@pytest.mark.parametrize("tone", ["white", (255, 220, 120)])
def test_light_lines_on_nothing_lie_on_black(lines: Lines, tone: Any, tmp_path: Path) -> None:
    wanted = drawing((128, 128))
    chalk = Image.new("RGBA", wanted.size, tone)
    chalk.putalpha(ImageOps.invert(wanted))
    chalk.save(tmp_path / "chalk.png")
    found = cleaned(read_picture(tmp_path / "chalk.png", lines).convert("L"), lines)
    assert np.abs(array(found) - array(wanted)).mean() < 8


def test_a_cut_out_with_dark_lines_lies_on_white() -> None:
    cut = drawing((128, 128)).convert("RGBA")
    alpha = Image.new("L", cut.size, 0)
    alpha.paste(255, (8, 8, 120, 120))
    cut.putalpha(alpha)
    assert backdrop(cut, "auto") == "white"


def test_a_file_of_another_kind_is_no_picture_whatever_its_name(tmp_path: Path) -> None:
    """Pillow would hand an EPS to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError, match="it is damaged or not a picture"):
        read_picture(tmp_path / "a.png")


def one_pixel(folder: Path) -> None:
    Image.new("RGB", (1, 1)).save(folder / "a.png")


def blank(folder: Path) -> None:
    Image.new("RGB", (50, 50), "white").save(folder / "a.png")


def cut_off(folder: Path) -> None:
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])


def gone(folder: Path) -> None:
    (folder / "a.png").unlink()


def bomb(folder: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(folder / "a.png")


def strip(folder: Path) -> None:
    Image.fromarray(np.arange(16 * 60_000, dtype=np.uint8).reshape(60_000, 16)).save(folder / "a.png")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (one_pixel, (), "'{}/a.png' has 1 x 1 pixels: at least 16 x 16 are needed"),
        (blank, (), "'{}/a.png' is blank"),
        (cut_off, (), "'{}/b.png' cannot be read: "),
        (gone, (), "there is no picture or folder '{}/a.png'"),
        (bomb, (), "'{}/a.png' has more than 89 million pixels: save it smaller first"),
        (strip, (), "'{}/a.png' would be coloured at 16 x 60,000 pixels"),
        (None, ("--lines", "drak"), "unknown kind of lines 'drak': did you mean 'dark'?"),
        (None, ("--size", "7"), "size 7: expected 16 pixels or more"),
        (None, ("-o", "{}/a.png"), "'{}/a.png' is an input and would be overwritten"),
        (None, ("-o", "{}/out.gif"), "-o {}/out.gif: expected a folder, or a file that ends in .bmp"),
        (None, ("-o", "{}/b.png/out.png"), "'{}/b.png/out.png' cannot be written (Not a directory)"),
        (None, ("-o", "/proc/out.png"), "'/proc/out.png' cannot be written"),
        (None, ("-m", "{}/nothing"), "there is no cell '{}/nothing'"),
        (None, ("-m", "{}/a.png"), "'{}/a.png' is a file: name a finished cell's folder"),
        (None, ("-m", "{}"), "'{}' holds no trained generator"),
        (None, ("-s", "{}", "-o", "{}/b.png"), "-o {}/b.png is a file: a folder of sketches needs a folder"),
        (None, ("-s", "{}", "-o", "{}"), "-o {} is the folder of the sketches"),
        (None, ("-r", "{}/empty"), "no pictures in '{}/empty'"),
    ],
)
def test_bad_input_is_one_line(
    spoil: Callable[[Path], None] | None, options: tuple[str, ...], message: str, cell: Path, pictures: Path
) -> None:
    (pictures / "empty").mkdir()
    if spoil:
        spoil(pictures)
    before = sorted(pictures.rglob("*"))
    code, _, err = colorize(cell, pictures, *(option.format(pictures) for option in options))
    assert code == 2
    assert one_line(err).startswith("error: " + message.format(pictures))
    assert sorted(pictures.rglob("*")) == before


def test_two_sketches_of_one_name_are_refused(cell: Path, pictures: Path, tmp_path: Path) -> None:
    drawing().save(pictures / "a.jpg")
    with pytest.raises(UserError, match=r"'a\.jpg' and 'a\.png' would both become 'a\.png'"):
        colorize_files(cell, pictures, pictures / "b.png", tmp_path / "out")


def test_a_results_folder_names_its_cells(cell: Path, pictures: Path) -> None:
    code, _, err = colorize(cell.parent, pictures)
    assert code == 2
    assert str(cell) in one_line(err)


def cut_weights(copy: Path) -> None:
    path = copy / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def other_weights(copy: Path) -> None:
    text = (copy / "cell.json").read_text()
    (copy / "cell.json").write_text(text.replace('"width": 4', '"width": 8'))


def unfinished(copy: Path) -> None:
    (copy / "generator.safetensors").unlink()
    (copy / "cell.json").write_text((copy / "cell.json").read_text().replace('"status": "finished"', '"status": "running"'))


def without_weights(copy: Path) -> None:
    (copy / "generator.safetensors").unlink()


def damaged_record(copy: Path) -> None:
    (copy / "cell.json").write_text("{")


def foreign_record(copy: Path) -> None:
    (copy / "cell.json").write_text('{"identity": "1", "status": "finished"}')


def changed(**changes: Any) -> Callable[[Path], None]:
    """`dataset__train=None` sets dataset.train."""

    def spoil(copy: Path) -> None:
        stored = record(copy)
        for key, value in changes.items():
            *above, last = key.split("__")
            part = stored[above[0]] if above else stored
            part[last] = value
        (copy / "cell.json").write_text(json.dumps(stored))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_weights, "generator.safetensors' is damaged"),
        (other_weights, "generator.safetensors' does not fit module 'sga'"),
        (unfinished, "is not finished (running)"),
        (without_weights, "has a cell's numbers but not its trained generator (generator.safetensors)"),
        (damaged_record, "cell.json' is damaged"),
        (foreign_record, "cell.json' is not a cell's record (module is missing)"),
        (changed(format=None), "cell.json' is not a cell's record (format is null)"),
        (changed(format="1"), "cell.json' is not a cell's record (format is \"1\")"),
        (changed(seed="0"), "cell.json' is not a cell's record (seed is \"0\")"),
        (changed(module=[]), "cell.json' is not a cell's record (module is [])"),
        (changed(module__given=None), "cell.json' is not a cell's record (module.given is null)"),
        (changed(recipe__values=None), "cell.json' is not a cell's record (recipe.values is null)"),
        (changed(recipe__values={"data": {"sice": 1}}), "unknown key 'data.sice'"),
    ],
)
def test_a_damaged_cell_is_one_line(
    spoil: Callable[[Path], None], message: str, cell: Path, pictures: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cell, copy)
    spoil(copy)
    code, _, err = colorize(copy, pictures)
    assert code == 2
    assert message in one_line(err)


def test_a_module_that_is_not_installed_is_named_with_its_package(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here:
        install_module(tmp_path / "site", here, "foo", "pass")
        assert attnbench(*tiny(tmp_path / "store", "foo")).code == 0
    folder = only_cell(tmp_path / "store")
    code, _, err = colorize(folder, pictures)
    assert (code, err) == (
        2,
        f"error: '{folder}' needs module 'foo' of foo_package 1.2, which is not installed here: pip install that package\n",
    )


def test_a_generator_of_ones_own_making_is_told_apart() -> None:
    with pytest.raises(UserError, match="use one that attnbench.load returns"):
        library.colorize(Colorizer(torch.nn.Identity(), width=2, levels=2), drawing(), draw(0, 1, 32))


def test_code_that_has_changed_since_is_said(cell: Path, pictures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cell, copy)
    text = (copy / "cell.json").read_text()
    known = next(line for line in text.splitlines() if '"attnbench_baselines.sga":' in line)
    (copy / "cell.json").write_text(text.replace(known, '   "attnbench_baselines.sga": "0"' + "," * known.endswith(",")))
    code, _, err = colorize(copy, pictures)
    assert code == 0
    assert one_line(err).startswith("the code of attnbench_baselines.sga has changed")


def test_a_huge_drawing_is_coloured_at_the_trainings_size(
    cell: Path, tmp_path: Path, large_sheet: Callable[[tuple[int, int], int], Image.Image]
) -> None:
    large_sheet((8000, 6000), 100).save(tmp_path / "a.png", compress_level=1)
    draw(0, 1, 48).save(tmp_path / "b.png")
    assert colorize(cell, tmp_path)[0] == 0
    assert opened(tmp_path / "out.png").size == (8000, 6000)
