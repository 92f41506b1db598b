"""Datasets on disk: the layouts that are found, in which order, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbench.data.layouts import Dataset, Picture, anime, cat, dog, folder, synthetic, wild
from attnbench.data.synthetic import DIFFICULTIES, PARTS, draw, palette, part_map
from attnbench.errors import UserError

HEAD = draw(0, 0, 16)
LINE = draw(0, 1, 16).convert("L")


def put(base: Path, *names: str, line_art: bool = False) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (LINE if line_art else HEAD).save(base / name)


def names(pictures: Sequence[Picture]) -> list[str]:
    return [picture.name for picture in pictures]


def line_art(picture: Picture) -> Image.Image | None:
    sketch = picture.open_sketch()
    if sketch is not None:
        sketch.load()  # and close
    return sketch


def with_line_art(pictures: Sequence[Picture]) -> list[str]:
    return [picture.name for picture in pictures if line_art(picture) is not None]


@pytest.mark.parametrize("inner", ["anime", "."])
def test_anime_takes_colour_from_stage_two_and_line_art_of_the_same_name_from_stage_zero(tmp_path: Path, inner: str) -> None:
    base = tmp_path / inner
    put(base / "train2", "b.png", "a.png")
    put(base / "train0", "a.png", "b.png", "not-in-colour.png", line_art=True)
    put(base / "test2", "c.png", "d.png")
    put(base / "test0", "c.png", line_art=True)
    found = anime(tmp_path)
    assert (names(found.train), names(found.test)) == (["a.png", "b.png"], ["c.png", "d.png"])
    assert (with_line_art(found.train), with_line_art(found.test)) == (["a.png", "b.png"], ["c.png"])
    sketch = line_art(found.train[0])
    assert sketch is not None
    assert sketch.tobytes() == LINE.tobytes()
    with found.train[0].open() as picture:
        assert picture.tobytes() == HEAD.tobytes()


def test_anime_is_also_read_from_plain_train_and_test_folders(tmp_path: Path) -> None:
    put(tmp_path / "anime", "train/a.png", "test/b.png")
    found = anime(tmp_path)
    assert (names(found.train), names(found.test), found.name) == (["a.png"], ["b.png"], "anime")
    assert with_line_art(found.train) == []


@pytest.mark.parametrize(("load", "name"), [(cat, "cat"), (dog, "dog"), (wild, "wild")], ids=["cat", "dog", "wild"])
@pytest.mark.parametrize("base", ["afhq", "."])
@pytest.mark.parametrize("held_out", ["val", "test"])
def test_afhq_is_read_as_it_is_unpacked(
    tmp_path: Path, load: Callable[[Path], Dataset], name: str, base: str, held_out: str
) -> None:
    put(tmp_path / base / "train" / name, "1.jpg", "2.jpg")
    put(tmp_path / base / "train" / f"{name}_sketch", "2.jpg", line_art=True)
    put(tmp_path / base / held_out / name, "3.jpg")
    put(tmp_path / base / held_out / f"{name}_sketch", "3.jpg", line_art=True)
    put(tmp_path / base / "train" / "another_class", "4.jpg")
    found = load(tmp_path)
    assert (names(found.train), names(found.test), found.name) == (["1.jpg", "2.jpg"], ["3.jpg"], name)
    assert (with_line_art(found.train), with_line_art(found.test)) == (["2.jpg"], ["3.jpg"])


def test_an_afhq_class_is_also_read_from_plain_train_and_test_folders(tmp_path: Path) -> None:
    put(tmp_path / "cat", "train/a.jpg", "test/b.jpg")
    assert names(cat(tmp_path).train) == ["a.jpg"]


def test_a_folder_of_real_images_is_found(data_root: Path) -> None:
    found = cat(data_root)
    assert len(found.train) > len(found.test) > 1
    assert not set(names(found.train)) & set(names(found.test))


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_a_folder_with_train_and_a_held_out_part_is_taken_as_it_is(tmp_path: Path, held_out: str) -> None:
    put(tmp_path, "train/a.png", "train/b.png", f"{held_out}/c.png")
    put(tmp_path, "train_sketch/b.png", f"{held_out}_sketch/c.png", line_art=True)
    found = folder("mine", tmp_path)
    assert (found.name, names(found.train), names(found.test)) == ("mine", ["a.png", "b.png"], ["c.png"])
    assert (with_line_art(found.train), with_line_art(found.test)) == (["b.png"], ["c.png"])


def test_of_a_folder_without_parts_a_tenth_is_held_out(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i:02d}.png" for i in range(40)))
    found = folder("mine", tmp_path)
    assert (len(found.train), len(found.test)) == (36, 4)
    assert sorted(names(found.train) + names(found.test)) == [f"{i:02d}.png" for i in range(40)]
    assert names(found.test) != [f"{i:02d}.png" for i in range(0, 40, 10)]


def test_which_tenth_is_held_out_is_decided_by_names_alone(tmp_path: Path) -> None:
    for place in ("here", "there"):
        put(tmp_path / place, *(f"{i:02d}.png" for i in range(20)))
    assert names(folder("a", tmp_path / "here").test) == names(folder("b", tmp_path / "there").test)


def test_at_least_two_images_are_held_out_since_pairs_need_two(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}.png" for i in range(6)))
    assert len(folder("mine", tmp_path).test) == 2


def test_subfolders_are_part_of_an_image_s_name_and_names_are_sorted(tmp_path: Path) -> None:
    put(tmp_path, "train/z.png", "train/b/a.png", "train/a/z.png", "test/a.png")
    assert names(folder("mine", tmp_path).train) == ["a/z.png", "b/a.png", "z.png"]


def test_only_visible_image_files_count_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    put(tmp_path / "train", "a.PNG", "b.JPeG", "c.webp", "d.bmp", "e.gif", "f.tif", ".hidden.png")
    put(tmp_path / "test", "t.png")
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "folder.png").mkdir()
    assert names(folder("mine", tmp_path).train) == ["a.PNG", "b.JPeG", "c.webp", "d.bmp", "e.gif", "f.tif"]


def test_synthetic_has_as_many_heads_as_asked_all_different() -> None:
    heads = synthetic(train=5, test=3, size=16)
    assert (len(heads.train), len(heads.test)) == (5, 3)
    drawn = [picture.open() for picture in (*heads.train, *heads.test)]
    assert {picture.size for picture in drawn} == {(16, 16)}
    assert len({picture.tobytes() for picture in drawn}) == 8
    assert len({picture.name for picture in (*heads.train, *heads.test)}) == 8


def test_synthetic_test_heads_stay_the_same_however_many_are_trained_on() -> None:
    few, many = synthetic(train=2, test=3, size=16), synthetic(train=9, test=3, size=16)
    assert [p.content_digest() for p in few.test] == [p.content_digest() for p in many.test]


def test_synthetic_seeds_sizes_and_difficulties_are_other_content() -> None:
    others: list[dict[str, int]] = [{}, {"seed": 1}, {"size": 16}, {"difficulty": 2}]
    digests = {synthetic(train=1, test=2, **options).test[0].content_digest() for options in others}
    assert len(digests) == len(others)


def test_synthetic_difficulties_have_names_of_their_own() -> None:
    names = [synthetic(difficulty=difficulty).name for difficulty in DIFFICULTIES]
    assert names == ["synthetic", "synthetic-2", "synthetic-3", "synthetic-4"]


def test_synthetic_knows_the_right_answers_and_the_parts() -> None:
    heads = synthetic(train=1, test=2, size=32, difficulty=3)
    assert heads.answer is not None
    assert heads.parts is not None
    sketch, reference = heads.test
    colors = palette(reference.seed, reference.index)  # type: ignore[attr-defined]
    assert heads.answer(sketch, reference).tobytes() == draw(0, 0, 32, difficulty=3, colors=colors).tobytes()
    assert heads.answer(sketch, sketch).tobytes() == sketch.open().tobytes()
    assert np.array_equal(heads.parts(sketch), part_map(0, 0, 32, difficulty=3))
    assert heads.part_names == PARTS


@pytest.mark.parametrize("options", [{"train": 0}, {"test": 0}, {"size": 15}, {"size": 4097}])
def test_synthetic_refuses_no_heads_and_sizes_that_it_cannot_draw(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected at least 1 of each|expected 16 to 4096"):
        synthetic(**options)


def test_synthetic_refuses_other_difficulties_and_negative_seeds() -> None:
    with pytest.raises(UserError, match="difficulty=5: expected 1, 2, 3 or 4"):
        synthetic(difficulty=5)
    with pytest.raises(UserError, match="seed=-1: must not be negative"):
        synthetic(seed=-1)


def test_a_data_set_that_is_not_there_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'cat' was not found .*afhq/train/cat.*cat/train.*download\.sh.*cat=FOLDER"):
        cat(tmp_path)
    with pytest.raises(UserError, match=r"'anime' was not found .*anime/train2.*ArtEditing.*anime=FOLDER"):
        anime(tmp_path)


def test_half_a_data_set_is_not_taken_for_one(tmp_path: Path) -> None:
    put(tmp_path, "afhq/train/cat/a.jpg", "anime/train2/a.png")
    for load in (cat, anime):
        with pytest.raises(UserError, match="was not found"):
            load(tmp_path)


def test_without_a_data_root_it_is_said_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"'dog' needs a data root: pass --data-root PATH or set ATTNBENCH_DATA"):
        dog(None)


def test_a_data_root_or_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data root '.*nowhere' is not a folder"):
        wild(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"dataset 'mine': there is no folder '.*nowhere'"):
        folder("mine", tmp_path / "nowhere")


def test_an_empty_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no images in '.*'"):
        folder("mine", tmp_path)
    put(tmp_path, "test/a.png")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"no images in '.*train'"):
        folder("mine", tmp_path)
