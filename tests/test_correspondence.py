"""Known warps: where a reference shows its sketch, what attention and marks make of it, by naive second implementations."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runs import attnbench, only_cell, record, tiny
from scipy.optimize import fsolve
from torch import Tensor

from attnbench import NotMeasurable, Pictures, UserError
from attnbench.config.recipe import Data, Warp
from attnbench.contract.distortions import blurred, shifted
from attnbench.data.batches import own_marks, own_reference_shows
from attnbench.data.images import prepare
from attnbench.data.layouts import synthetic
from attnbench.data.marks import APART, COLOURS, RADIUS, mark_places, with_marks
from attnbench.data.warp import grid_points, official_points, places_shown, tps_offsets, warp
from attnbench.execute import cell_images
from attnbench.method.attention_maps import ShownMap
from attnbench.metrics.generate import PairSet
from attnbench.metrics.guesses import finest, guesses_of, look, one_for_all, trivial_shares
from attnbench.metrics.marks import differences, marks_of
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.protocol import Protocol
from attnbench.metrics.true_places import middles, places_in_reference

CPU = torch.device("cpu")
SIZE = 32
GENTLE = Data(size=SIZE, warp=Warp(kind="grid", magnitude=0.1, border="reflect"))


# --- what a warped picture shows


def offsets_of(points: tuple[np.ndarray, np.ndarray], size: int) -> Tensor:
    return tps_offsets(torch.from_numpy(points[0])[None], torch.from_numpy(points[1])[None], size, size)


@pytest.mark.parametrize("draw", [official_points, partial(grid_points, points=3, magnitude=0.1)], ids=["official", "grid"])
def test_what_a_pixel_shows_is_what_the_warp_puts_there(draw: Callable[..., Any]) -> None:
    """A picture whose colour says where it is: x in red, y in green."""
    size = 64
    for seed in range(5):
        offsets = offsets_of(draw(np.random.default_rng(seed)), size)
        x, y = np.split(middles(size).reshape(size, size, 2), 2, axis=-1)
        telling = torch.from_numpy(np.concatenate([x, y, 0 * x], axis=-1)).permute(2, 0, 1)[None].float()
        told = warp(telling, offsets, border="replicate")[0, :2].permute(1, 2, 0).double().numpy()
        shows = places_shown(offsets)[0].numpy()
        inside = (np.abs(shows - 0.5) < 0.5 - 2 / size).all(-1)
        assert inside.mean() > 0.5
        assert np.abs(told - shows)[inside].max() < 0.1 / size  # PyTorch's bicubic kernel bends a slope by so much


def identity(size: int = SIZE) -> np.ndarray:
    return middles(size).reshape(size, size, 2)


@pytest.mark.parametrize("side", [4, 8, 16, 31])
def test_without_a_warp_every_place_is_its_own(side: int) -> None:
    cells, places = places_in_reference(identity(), side)
    assert cells.tolist() == list(range(side**2))
    assert np.allclose(places, middles(side))


def test_a_shift_moves_every_place_and_leaves_out_those_beyond_the_edge() -> None:
    cells, places = places_in_reference(identity() + np.array([0.25, 0]), 8)  # each pixel shows what is a quarter to its right
    assert np.allclose(places, middles(8)[cells] - (0.25, 0))
    assert set(cells) == {cell for cell, (x, _) in enumerate(middles(8)) if x - 0.25 > 0}


def test_a_fold_shows_a_place_twice_and_both_are_right() -> None:
    shows = identity(64)
    shows[..., 0] = 1 - np.abs(2 * shows[..., 0] - 1)  # a tent: left and right half both show the whole width
    cells, places = places_in_reference(shows, 8)
    assert (np.unique(cells, return_counts=True)[1] == 2).all()
    for cell, place in zip(cells, places, strict=True):
        x, y = middles(8)[cell]
        assert place[1] == pytest.approx(y)
        assert min(abs(place[0] - x / 2), abs(place[0] - (1 - x / 2))) < 1e-9


@pytest.mark.parametrize("kind", ["official", "grid"])
def test_places_are_those_at_which_the_spline_itself_shows_the_cell(kind: str) -> None:
    """The spline, naively, solved by SciPy from the places found; between pixels it is nearly linear."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sources, destinations = official_points(rng) if kind == "official" else grid_points(rng, 3, 0.1)
        size = 96
        cells, places = places_in_reference(places_shown(offsets_of((sources, destinations), size))[0].numpy(), 8)
        assert len(cells) > 30
        shown = naive_spline(sources, destinations, size)
        for cell, place in zip(cells, places, strict=True):
            exact = fsolve(lambda at, cell=cell, shown=shown: shown(at) - middles(8)[cell], place)
            assert np.abs(exact - place).max() < 0.5 / size


def naive_spline(sources: np.ndarray, destinations: np.ndarray, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """What a place of the warped picture shows: the released code's spline on a lattice that is a pixel too wide."""

    def kernel(a: np.ndarray) -> np.ndarray:
        r = np.linalg.norm(a[:, None] - destinations[None], axis=-1)
        return r**2 * np.log(r + 1e-6)

    count = len(destinations)
    affine = np.concatenate([np.ones((count, 1)), destinations], axis=1)
    system = np.block([[kernel(destinations), affine], [affine.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([sources - destinations, np.zeros((3, 2))]))

    def shown(at: np.ndarray) -> np.ndarray:
        lattice = (at * size - 0.5) / (size - 1)  # the pixel's number, as a share of the last one's
        basis = np.concatenate([kernel(lattice[None])[0], [1], lattice])
        return lattice + basis @ weights + 0.5 / size

    return shown


def test_places_are_those_of_a_search_through_all_pixels() -> None:
    shows = own_reference_shows(3, GENTLE, 0)
    cells, places = places_in_reference(shows, 8)
    for cell in np.unique(cells):
        naive = identity()[np.unravel_index(np.linalg.norm(shows - middles(8)[cell], axis=-1).argmin(), (SIZE, SIZE))]
        assert np.linalg.norm(places[cells == cell] - naive, axis=1).min() < 2 / SIZE


# --- attention maps


def seen(*maps: Tensor, shows: Sequence[np.ndarray] | None = None) -> Pictures:
    """Pictures of which nothing matters but the maps, (N, n, m) of each layer, in batches of two."""
    count = len(maps[0])

    def show(each: Callable[[int, Sequence[ShownMap]], None]) -> None:
        for start in range(0, count, 2):
            each(start, [ShownMap(f"cross {i}", False, one[start : start + 2]) for i, one in enumerate(maps)])

    where = shows or [own_reference_shows(index, GENTLE, 0) for index in range(count)]
    available = {"maps": lambda: show, "shows": lambda: where.__getitem__}
    blank = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    return Pictures(blank, [(str(i), str(i)) for i in range(count)], CPU, available)


def number(pictures: Pictures, text: str) -> Number:
    (found,) = measure(pictures, [parse_metric(text)]).values()
    return found


def value(pictures: Pictures, text: str) -> float:
    found = number(pictures, text)
    assert found.value is not None, found.reason
    return found.value


def right_maps(count: int, side: int, other: int, spread: float = 1e-3) -> Tensor:
    """Gaussian attention around the first true place of each position; none where the reference does not show it."""
    grid, maps = middles(other), torch.zeros(count, side**2, other**2)
    for row in range(count):
        for cell, place in zip(*places_in_reference(own_reference_shows(row, GENTLE, 0), side), strict=True):
            away = ((grid - place) ** 2).sum(1)
            near = np.exp((away.min() - away) / (2 * spread**2))
            maps[row, cell] = torch.from_numpy(near / near.sum())
    return maps


def test_a_map_that_looks_where_it_should_scores_what_its_grid_allows() -> None:
    for other, alpha in ((8, 0.05), (8, 0.1), (16, 0.05)):
        found = number(seen(right_maps(4, 8, other)), f"pck:alpha={alpha}")
        assert found.value == pytest.approx(found.details["ceiling"], abs=0.01)
    assert number(seen(right_maps(4, 8, 8)), "pck").details["ceiling"] == 100  # half a cell's diagonal is 0.088
    assert number(seen(right_maps(4, 8, 8)), "pck:alpha=0.05").details["ceiling"] < 90


def test_a_map_that_looks_at_each_position_s_own_place_scores_chance() -> None:
    found = number(seen(torch.eye(64).expand(4, -1, -1)), "pck:alpha=0.05")
    assert found.value == pytest.approx(found.details["trivial"]["its own place"], abs=0.01)
    assert found.details["chance"] == max(found.details["trivial"].values())


def test_of_moved_positions_staying_finds_none_and_a_right_map_all() -> None:
    stays, right = torch.eye(64).expand(4, -1, -1), right_maps(4, 8, 16)
    assert number(seen(stays), "pck:alpha=0.05").details["moved"] == 0
    assert number(seen(right), "pck:alpha=0.05").details["moved"] == 100
    assert number(seen(right), "pck:alpha=0.3").details["moved"] is None  # nothing is moved so far
    even = right * (torch.arange(64) % 2 == 0)[:, None]  # the others look nowhere
    moved = [
        cell % 2 == 0
        for one in guesses_of(seen(even))
        for cell, far in zip(np.unique(one.cells), one.errors(middles(8)) > 0.05, strict=True)
        if far
    ]
    assert number(seen(even), "pck:alpha=0.05").details["moved"] == pytest.approx(100 * np.mean(moved), abs=0.01)


def test_the_mean_of_a_map_that_looks_everywhere_is_the_middle() -> None:
    found = number(seen(torch.full((4, 64, 64), 1 / 64)), "pck:at=mean")
    assert found.value == pytest.approx(found.details["trivial"]["the middle"], abs=0.01)


def test_random_maps_score_what_looking_anywhere_does() -> None:
    maps = torch.rand(20, 64, 64, generator=torch.Generator().manual_seed(0))
    found = number(seen(maps), "pck")
    assert found.value == pytest.approx(found.details["trivial"]["anywhere"], abs=1)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("at", ["maximum", "mean"])
def test_pck_equals_a_naive_loop(alpha: float, at: str) -> None:
    maps = torch.rand(3, 36, 25, generator=torch.Generator().manual_seed(1)) ** 8
    scores = number(seen(maps), f"pck:alpha={alpha}:at={at}").scores
    assert scores is not None
    for row in range(3):
        cells, places = places_in_reference(own_reference_shows(row, GENTLE, 0), 6)
        hits = []
        for cell in sorted(set(cells)):
            weights = maps[row, cell].double().tolist()
            centres = [((j % 5 + 0.5) / 5, (j // 5 + 0.5) / 5) for j in range(25)]
            if at == "maximum":
                guess = centres[weights.index(max(weights))]
            else:
                guess = tuple(sum(w * c[axis] for w, c in zip(weights, centres, strict=True)) / sum(weights) for axis in (0, 1))
            hits.append(any(math.dist(guess, place) <= alpha for place in places[cells == cell]))
        assert scores[row] == pytest.approx(100 * sum(hits) / len(hits))


def test_the_less_sharp_a_right_map_the_fewer_of_its_means_are_right() -> None:
    sharp = right_maps(4, 8, 16)
    blurs = [torch.lerp(sharp, torch.full_like(sharp, 1 / 256), blend) for blend in (0, 0.3, 0.6, 0.9)]
    shares = [value(seen(maps), "pck:at=mean") for maps in blurs]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 95 > 30 > shares[-1]
    assert value(seen(blurs[2]), "pck") > 95  # their maxima are where they were


def test_rows_of_any_sum_count_alike_and_a_row_of_zeros_looks_nowhere() -> None:
    maps = right_maps(4, 8, 8)
    scaled = maps * torch.rand(4, 64, 1, generator=torch.Generator().manual_seed(2)).add(0.01)
    assert value(seen(scaled), "pck:at=mean") == pytest.approx(value(seen(maps), "pck:at=mean"))
    assert value(seen(torch.zeros(4, 64, 64)), "pck") == 0
    assert all(np.isnan(guess).all() for guess in look(torch.zeros(1, 4, 4), 2))


def test_scores_do_not_depend_on_the_other_pairs() -> None:
    maps = torch.rand(5, 64, 64, generator=torch.Generator().manual_seed(3))
    shows = [own_reference_shows(index, GENTLE, 0) for index in range(5)]
    whole, order = number(seen(maps, shows=shows), "pck").scores, [3, 0, 4]
    some = number(seen(maps[order], shows=[shows[index] for index in order]), "pck").scores
    assert whole is not None
    assert some is not None
    assert some.tolist() == whole[order].tolist()


def test_the_finest_map_between_sketch_and_reference_counts() -> None:
    coarse, fine = torch.rand(2, 16, 16), torch.rand(2, 64, 64)
    assert finest([ShownMap("cross", False, coarse), ShownMap("self", True, torch.rand(2, 99, 99))]).name == "cross"
    assert finest([ShownMap("cross", False, coarse), ShownMap("cross 2", False, fine)]).name == "cross 2"
    with pytest.raises(NotMeasurable, match="no attention map between sketch and reference"):
        finest([ShownMap("self", True, fine)])
    with pytest.raises(NotMeasurable, match="not square grids"):
        finest([ShownMap("cross", False, torch.rand(2, 6, 6))])


def test_a_reference_that_shows_nothing_of_its_sketch_is_named() -> None:
    found = number(seen(torch.rand(1, 16, 16), shows=[identity() + 5]), "pck")
    assert found.value is None
    assert found.reason == "the reference of '0' shows nothing of its sketch"


@pytest.mark.parametrize("name", ["pck", "marked_pck"])
def test_impossible_options_name_what_is_possible(name: str) -> None:
    for option, told in (("alpha=0", "between 0 and 1"), ("alpha=1", "between 0 and 1"), ("at=median", "maximum or mean")):
        with pytest.raises(UserError, match=told):
            parse_metric(f"{name}:{option}")


# --- marks


def test_marks_are_inside_and_apart_in_reference_and_sketch() -> None:
    for index in range(40):
        data = Data(size=64)
        there, here = own_marks(index, data, 0)
        for places in (there, here):
            assert places.min() >= RADIUS
            assert places.max() <= 1 - RADIUS
            assert np.linalg.norm(places[0] - places[1]) >= APART
        row, column = np.floor(there[0] * 64)[::-1].astype(int)
        assert np.allclose(own_reference_shows(index, data, 0)[row, column], here[0])


def test_a_warp_that_leaves_no_room_for_marks_gets_the_best_there_is() -> None:
    crowded = 0.5 + 0.02 * (identity() - 0.5)
    there, here = mark_places(crowded, np.random.default_rng(0))
    assert there.shape == here.shape == (2, 2)
    assert np.linalg.norm(here[0] - here[1]) > 0.005


def test_marks_have_their_colours_where_they_are_and_nothing_else_changes() -> None:
    images, places = torch.full((2, 3, 64, 64), 0.5), torch.tensor([[[0.25, 0.5], [0.75, 0.25]]] * 2, dtype=torch.float64)
    marked = with_marks(images, places, torch.tensor([False, True]))
    assert marked[0, :, 32, 16].tolist() == list(COLOURS[0])
    assert marked[0, :, 16, 48].tolist() == list(COLOURS[1])
    assert torch.equal(marked[1, :, 32, 16], marked[0, :, 16, 48])
    changed = (marked[0] != 0.5).any(0)
    assert changed.sum() == pytest.approx(2 * math.pi * (RADIUS * 64) ** 2, rel=0.15)
    assert not changed[:10].any()


@pytest.fixture(scope="module")
def marked() -> PairSet:
    data = Data(size=64)
    dataset = prepare(synthetic(train=2, test=8, size=64), data)
    return PairSet.of(dataset.test, Protocol(references="marked"), data)


def measured(pairs: PairSet, generated: Tensor, text: str = "marked_pck") -> Number:
    there, here = pairs.known.marks()
    return number(Pictures(generated, pairs.names, CPU, {"marks": lambda: (there, here)}), text)


def right(pairs: PairSet, strength: float = 1.0) -> Tensor:
    """The originals with the marks where they belong."""
    originals = pairs.wanted().float() / 255
    here = torch.from_numpy(np.stack([own_marks(index, pairs.data, 0)[1] for index, _ in pairs.pairs]))
    swapped = torch.arange(len(pairs)) % 2 == 1
    return (torch.lerp(originals, with_marks(originals, here, swapped), strength) * 255).round().byte()


def test_pairs_come_twice_with_their_marks_swapped(marked: PairSet) -> None:
    assert len(marked) == 16
    assert len(set(marked.names)) == 16
    references = marked.reference_images().double()
    assert torch.equal(references[0::2].sum(0), references[1::2].sum(0)) is False  # swapped, not repeated
    same = PairSet(marked.images, [(0, 0)], Protocol(references="same"), marked.data).reference_images()
    changed = (references[0] != same[0]).any(0)
    assert torch.equal(changed, (references[1] != same[0]).any(0))
    assert torch.equal(references[0][:, ~changed], references[1][:, ~changed])
    assert torch.equal(marked.sketches()[0], marked.sketches()[1])
    (x, y), (x2, y2) = marked.known.marks()[0][0], marked.known.marks()[0][1]
    assert references[0, :, int(y * 64), int(x * 64)].tolist() == [255, 0, 255]  # pair 0 is scored by its magenta mark
    assert references[1, :, int(y2 * 64), int(x2 * 64)].tolist() == [255, 0, 255]


def test_a_batch_of_marked_pairs_is_the_same_wherever_it_begins(marked: PairSet) -> None:
    whole = marked.batch(0, 6, CPU).reference
    assert torch.equal(marked.batch(3, 2, CPU).reference, whole[3:5])


def test_a_limit_counts_a_pair_once_and_never_parts_its_two_pictures() -> None:
    assert [len(Protocol(references="marked", limit=limit).pairs(5)) for limit in (1, 2, 5, 99)] == [2, 4, 10, 10]
    assert Protocol(references="marked", limit=5).on(5).limit is None
    assert Protocol(references="marked", limit=4).on(5).limit == 4
    assert Protocol(references="marked").label == "marked"


def test_marks_where_they_belong_are_all_found_at_full_strength(marked: PairSet) -> None:
    for way in ("maximum", "mean"):
        found = measured(marked, right(marked), f"marked_pck:alpha=0.05:at={way}")
        assert found.value == 100
        assert found.details["strength"] > 95
    assert measured(marked, right(marked, 0.1), "marked_pck:alpha=0.05").value == 100  # faint ones, too
    assert measured(marked, right(marked, 0.1)).details["strength"] == pytest.approx(10, abs=1)


def test_the_reference_itself_scores_chance_and_the_original_nothing(marked: PairSet) -> None:
    pasted = measured(marked, marked.reference_images())
    assert pasted.details["moved"] == 0
    assert measured(marked, right(marked)).details["moved"] == 100
    assert pasted.value == pytest.approx(pasted.details["trivial"]["its own place"])
    assert measured(marked, marked.wanted()).value == 0
    assert measured(marked, marked.wanted()).details["strength"] == 0
    assert measured(marked, marked.wanted(), "marked_pck:at=mean").value == 0


def test_colours_adopted_as_a_whole_are_no_mark(marked: PairSet) -> None:
    """The mean colour of each reference on its sketch: the two pictures of a pair are the same."""
    means = marked.reference_images().double().mean((2, 3), keepdim=True)
    tinted = (marked.sketches().double() / 255 * means).round().byte()
    assert measured(marked, tinted).value == pytest.approx(0, abs=7)


def test_marks_are_missed_the_more_the_farther_they_are_moved(marked: PairSet) -> None:
    shares = [measured(marked, shifted(right(marked), pixels), "marked_pck:alpha=0.1").value for pixels in (0, 4, 8, 12)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == shares[1] == 100  # 4 of 64 pixels are 0.06
    assert shares[-1] == 0


def test_blur_and_everything_that_both_pictures_share_leave_marks_where_they_are(marked: PairSet) -> None:
    assert measured(marked, blurred(right(marked), 2.0), "marked_pck:alpha=0.05").value == 100
    noise = torch.randint(-60, 61, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    wrong = (right(marked).int() + noise).clamp(0, 255).byte()
    assert measured(marked, wrong, "marked_pck:alpha=0.05").value == 100


def test_the_difference_is_one_in_the_magenta_mark_and_minus_one_in_the_green(marked: PairSet) -> None:
    """By a naive loop over pixels."""
    generated = right(marked)
    found = differences(generated)
    for row, column in ((5, 9), (30, 31), (50, 12)):
        a, b = (generated[index, :, row, column].double() / 255 for index in (0, 1))
        naive = sum(float(a[c] - b[c]) * way for c, way in enumerate((1, -1, 1))) / 3
        assert found[0, row, column] == pytest.approx(naive)
        assert found[1, row, column] == pytest.approx(-naive)
    (x, y), (x2, y2) = marked.known.marks()[1][0], marked.known.marks()[1][1]
    assert found[0, int(y * 64), int(x * 64)] == pytest.approx(1)
    assert found[0, int(y2 * 64), int(x2 * 64)] == pytest.approx(-1)


def test_chance_of_marks_equals_a_naive_count(marked: PairSet) -> None:
    pictures = Pictures(right(marked), marked.names, CPU, {"marks": marked.known.marks})
    marks, (there, here) = marks_of(pictures), marked.known.marks()
    trivial = {way: share[0] for way, share in marks.trivial_shares([0.1]).items()}
    grid = [((c + 0.5) / 64, (r + 0.5) / 64) for r in range(64) for c in range(64)]
    assert trivial["anywhere"] == pytest.approx(np.mean([[math.dist(g, t) <= 0.1 for g in grid] for t in here]))
    assert trivial["its own place"] == pytest.approx(
        np.mean([math.dist(a, b) <= 0.1 for a, b in zip(there, here, strict=True)])
    )
    assert trivial["the middle"] == pytest.approx(np.mean([math.dist((0.5, 0.5), t) <= 0.1 for t in here]))


# --- in a run, in a store, on the command line

HEADS = "synthetic:train=4:test=4:size=32"
BOTH = {"data__size": 32, "evaluation__references": "[same, marked]", "evaluation__metrics": "[pck, marked_pck, 'pck:at=mean']"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SGA, SPADE, and CMFT with two maps, measured both ways."""
    place = tmp_path_factory.mktemp("correspondence") / "results"
    outcome = attnbench(*tiny(place, "sga,spade,cmft:levels=2", HEADS, **BOTH))
    assert outcome.code == 0, outcome.err
    return place


def numbers_of(folder: Path, references: str) -> dict[str, Any]:
    (found,) = [one for one in record(folder)["measurements"] if one["protocol"]["references"] == references]
    return found["metrics"]  # type: ignore[no-any-return]


def test_a_run_measures_maps_under_same_and_marks_under_marked(store: Path) -> None:
    sga, spade, cmft = (only_cell(store, name) for name in ("sga", "spade", "cmft"))
    assert 0 <= numbers_of(sga, "same")["pck"]["value"] <= 100
    assert numbers_of(sga, "same")["pck"]["map"] == "cross"
    assert numbers_of(sga, "same")["pck"]["grid"] == "8 x 8 to 8 x 8"
    assert numbers_of(cmft, "same")["pck"]["grid"] == "16 x 16 to 16 x 16"  # the finer of its two
    assert numbers_of(spade, "same")["pck"]["value"] is None
    assert "shows no attention map" in numbers_of(spade, "same")["pck"]["reason"]
    assert all(0 <= numbers_of(one, "marked")["marked_pck"]["value"] <= 100 for one in (sga, spade, cmft))
    assert numbers_of(sga, "same")["marked_pck"]["reason"] == "references have marks under `references: marked` alone"


def test_pck_of_a_run_is_that_of_the_trained_network(store: Path) -> None:
    """Against the metric on maps that an observer of the loaded network has seen, one picture at a time."""
    from attnbench import load
    from attnbench.method.attention_maps import Maps
    from attnbench.method.probe import listening
    from attnbench.store.generators import recipe_of

    folder = only_cell(store, "sga")
    generator = load(folder)
    data = recipe_of(generator).data
    dataset = prepare(synthetic(train=4, test=4, size=32), data)
    pairs = PairSet.of(dataset.test, Protocol(references="same"), data)
    maps = []
    for place in range(len(pairs)):
        batch = pairs.batch(place, 1, CPU)
        with torch.no_grad(), listening(observer := Maps()):
            generator(batch.sketch, batch.reference)
        maps.append(observer.shown[0].weights[0])
    again = seen(torch.stack(maps), shows=[pairs.known.shows(place) for place in range(len(pairs))])
    assert value(again, "pck") == pytest.approx(numbers_of(folder, "same")["pck"]["value"])
    assert number(again, "pck").details["chance"] == numbers_of(folder, "same")["pck"]["chance"]


def test_numbers_measured_later_from_kept_pictures_are_the_same(store: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    plain = BOTH | {"evaluation__metrics": "[ssim_global]", "evaluation__references": "[same]"}
    assert attnbench(*tiny(again, "sga", HEADS, **plain)).code == 0
    both = ("--set", "evaluation.references=[same,marked]")
    assert attnbench("measure", again, "--metrics", "pck,marked_pck", *both).code == 0
    for kind, key in (("same", "pck"), ("marked", "marked_pck")):
        mine, theirs = numbers_of(only_cell(again), kind)[key], numbers_of(only_cell(store, "sga"), kind)[key]
        assert mine["value"] == theirs["value"]
        assert mine["chance"] == theirs["chance"]


def test_marked_pairs_may_be_coloured_by_any_program(store: Path, tmp_path: Path) -> None:
    pairs, pictures, results = tmp_path / "pairs", tmp_path / "pictures", tmp_path / "results"
    recipe = ("--recipe", "demo", "--set", "data.size=32", "--set", "evaluation.references=marked")
    assert attnbench("pairs", HEADS, "-o", pairs, *recipe).code == 0
    shutil.copytree(pairs / "references", pictures)  # what a program gives that pastes
    assert len(list(pictures.iterdir())) == 8
    marker = ("--metrics", "marked_pck", "-d", HEADS, "-o", results)
    assert attnbench("score", pictures, "--pairs", pairs, "--as", "Painter", *marker).code == 0
    assert attnbench("score", "--method", "paste", *recipe, *marker).code == 0
    painter, pasted = (numbers_of(only_cell(results, name), "marked")["marked_pck"] for name in ("painter", "paste"))
    assert painter["value"] == pasted["value"] == pasted["trivial"]["its own place"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "-m", "sga", "--set", "evaluation.metrics=[pck]"), "references=same"),
        (("run", "-m", "sga", "--set", "evaluation.metrics=[marked_pck]"), "references=marked"),
        (("score", "--method", "paste", "--metrics", "marked_pck"), "references=marked"),
        (("score", "--method", "paste", "--metrics", "pck"), "a network that was trained here alone: leave it out"),
    ],
)
def test_a_metric_of_another_protocol_is_refused_with_the_remedy(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    outcome = attnbench(*arguments, "-d", HEADS, "--recipe", "demo", "-o", tmp_path / "results")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert told in outcome.err
    assert not (tmp_path / "results").exists()


def test_measuring_what_a_store_s_protocols_cannot_have_is_refused(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path, evaluation__metrics="[ssim_global]")).code == 0
    outcome = attnbench("measure", tmp_path, "--metrics", "pck")
    assert outcome.code == 2
    assert "--set evaluation.references=same" in outcome.err
    assert attnbench("measure", tmp_path, "--metrics", "pck", "--set", "evaluation.references=same").code == 0


def test_pictures_alone_have_no_map(store: Path) -> None:
    data = GENTLE
    dataset = prepare(synthetic(train=2, test=2, size=SIZE), data)
    pairs = PairSet.of(dataset.test, Protocol(references="same"), data)
    found = number(pictures_of(pairs.wanted(), pairs, dataset, CPU), "pck")
    assert found.reason == "where a method looks is seen in a network that was trained here alone"


def test_a_comparison_with_a_module_without_a_map_says_so(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "results")
    all_three = ("--set", "evaluation.references=[cross,same,marked]")
    assert attnbench("measure", tmp_path / "results", "--metrics", "pck", *all_three).code == 0
    for place in (store, tmp_path / "results"):  # whatever other protocols say
        outcome = attnbench("compare", place, "sga", "spade", "--metrics", "pck")
        assert outcome.code == 2
        assert "PCK@0.1 has no number of SPADE: its module shows no attention map" in outcome.err
    assert attnbench("compare", store, "sga", "spade", "--metrics", "marked_pck").code == 0


def test_the_analysis_draws_curves_that_agree_with_the_metrics(store: Path) -> None:
    outcome = attnbench("analyze", "correspondence", store, "--pairs", "4")
    assert outcome.code == 0, outcome.err
    assert "mark, trivial" in outcome.out
    sga, spade = only_cell(store, "sga"), only_cell(store, "spade")
    curves = pd.read_csv(sga / "analysis" / "correspondence.csv")
    for through, kind, key in (("map", "same", "pck"), ("mark", "marked", "marked_pck")):
        there = curves[(curves["through"] == through) & np.isclose(curves["alpha"], 0.1)].set_index("guess")["share"]
        assert 100 * there["maximum"] == pytest.approx(numbers_of(sga, kind)[key]["value"])
        trivial = numbers_of(sga, kind)[key]["trivial"]
        assert (100 * there[list(trivial)]).to_dict() == pytest.approx(trivial, abs=0.01)
    only_marks = pd.read_csv(spade / "analysis" / "correspondence.csv")
    assert set(only_marks["through"]) == {"mark"}
    for place in (sga, spade, store):
        texts = json.loads((place / "analysis" / "correspondence.json").read_text())
        assert "within 0.1" in texts["caption"]
        assert all((place / "analysis" / f"correspondence.{suffix}").is_file() for suffix in ("png", "pdf"))
    together = pd.read_csv(store / "analysis" / "correspondence.csv")
    assert together["variant"].nunique() == 3


def test_trivial_guesses_within_two_sides_of_anywhere_are_all_right() -> None:
    shares = trivial_shares(guesses_of(seen(torch.rand(2, 64, 64))), [2.0])
    assert {float(share[0]) for share in shares.values()} == {1.0}


def test_one_place_for_all_is_the_best_of_the_candidates_by_a_naive_search() -> None:
    guesses = guesses_of(seen(torch.rand(6, 16, 16)))
    best = []
    for cell in range(16):
        places = [one.places[one.cells == cell] for one in guesses]
        rights = []
        for i, candidate in enumerate(places):
            others = [of_other for j, of_other in enumerate(places) if j != i and len(of_other)]
            if len(candidate) and others:
                rights.append(np.mean([min(math.dist(candidate[0], place) for place in other) <= 0.05 for other in others]))
        if rights:
            best.append(max(rights))
    assert one_for_all(guesses, [0.05])[0] == pytest.approx(np.mean(best))


def test_a_mark_that_a_warp_has_put_outside_of_the_picture_is_lost_and_the_rest_measured() -> None:
    here = np.array([[0.5, 0.5], [1.4, 0.5]])
    generated = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    found = number(Pictures(generated, [("a", "b"), ("a", "c")], CPU, {"marks": lambda: (here, here)}), "marked_pck")
    assert found.value == 0
    assert found.details["strength"] == 0


def test_a_difference_of_less_than_a_grey_level_is_no_mark(marked: PairSet) -> None:
    faint = marked.wanted().clone()
    faint[0::2, 0, 3, 3] = faint[1::2, 0, 3, 3] ^ 1
    assert measured(marked, faint).details["maximum"]["0.1"] == measured(marked, faint).details["mean"]["0.1"] == 0


def test_what_was_away_is_measured_when_it_is_back(tmp_path: Path) -> None:
    both = {**BOTH, "evaluation__references": "same", "evaluation__metrics": "[ssim_global]"}
    assert attnbench(*tiny(tmp_path / "results", "sga", HEADS, **both)).code == 0
    cell = only_cell(tmp_path / "results")
    (cell / "generator.safetensors").rename(tmp_path / "away")
    arguments = ("measure", tmp_path / "results", "--metrics", "pck", "--set", "evaluation.references=same")
    assert attnbench(*arguments).code == 0
    assert "not at hand" in numbers_of(cell, "same")["pck"]["reason"]
    (tmp_path / "away").rename(cell / "generator.safetensors")
    assert attnbench(*arguments).out.startswith("measured 1")
    assert numbers_of(cell, "same")["pck"]["value"] is not None
    assert attnbench(*arguments).out.startswith("measured 0, already measured 1")


def test_without_the_images_marked_pictures_have_what_they_have_with_them(tmp_path: Path, folder_of_heads: Any) -> None:
    images = folder_of_heads()
    both = {**BOTH, "evaluation__references": "[same, marked]", "evaluation__metrics": "[ssim_global]"}
    assert attnbench(*tiny(tmp_path / "results", "spade", f"mine={images}", **both)).code == 0
    cell = only_cell(tmp_path / "results")
    measure = ("measure", tmp_path / "results", "--set", "evaluation.references=[same,marked]", "--metrics")
    assert attnbench(*measure, "marked_pck").code == 0
    with_images = numbers_of(cell, "marked")["marked_pck"]
    images.rename(tmp_path / "elsewhere")
    cell_images._prepared.cache_clear()  # what this process has seen
    assert attnbench(*measure, "marked_pck,ssim,outline", "--again").code == 0
    assert numbers_of(cell, "marked")["marked_pck"]["value"] == with_images["value"]
    assert "should look like nothing else" in numbers_of(cell, "marked")["ssim"]["reason"]
    outline = numbers_of(cell, "same")["outline"]["value"]
    assert outline is not None
    (cell / measured_folder(cell, "same") / "pairs.csv").unlink()
    assert attnbench(*measure, "outline", "--again").code == 0
    assert "are lost with pairs.csv" in numbers_of(cell, "same")["outline"]["reason"]


def measured_folder(cell: Path, references: str) -> str:
    (found,) = [one for one in record(cell)["measurements"] if one["protocol"]["references"] == references]
    return str(found["folder"])


@pytest.mark.parametrize("metric", ["fid", "psnr"])
def test_marked_pictures_alone_are_refused_for_metrics_that_see_nothing_in_them(metric: str, tmp_path: Path) -> None:
    outcome = attnbench(*tiny(tmp_path, evaluation__references="marked", evaluation__metrics=f"[{metric}]"))
    assert outcome.code == 2
    assert "the references are marked" in outcome.err


def test_a_recipe_of_whose_metrics_none_can_be_measured_is_refused_before_it_trains(tmp_path: Path) -> None:
    arguments = ("-d", HEADS, "--recipe", "demo", "--set", "evaluation.references=marked", "-o", tmp_path / "results")
    for command in (("run", "-m", "sga"), ("score", "--method", "paste")):
        outcome = attnbench(*command, *arguments)
        assert outcome.code == 2
        assert "cannot be measured here: the references are marked" in outcome.err
        assert not (tmp_path / "results").exists()


def test_right_answers_to_marked_references_are_refused(tmp_path: Path) -> None:
    marked = ("--set", "evaluation.references=marked", "--metrics", "marked_pck")
    outcome = attnbench("score", "--right-answers", "-d", HEADS, "--recipe", "demo", *marked, "-o", tmp_path / "results")
    assert outcome.code == 2
    assert "nobody knows them of marked references" in outcome.err
