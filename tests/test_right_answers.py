"""Metrics of parts, and comparisons with right answers: closed forms, and what on drawings they answer to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from attnbench import NotMeasurable, Pictures, UserError
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy, recoloured, shifted, swapped
from attnbench.data.images import ImageSet, prepare
from attnbench.data.layouts import folder, synthetic
from attnbench.metrics.bleed import bleeding
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import Number, check_uses, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.parts import MIN_PIXELS, MIN_SHARE, difference, lab_of, part_means, regions_of
from attnbench.metrics.protocol import Protocol, number_identity
from attnbench.metrics.psnr import psnr

CPU = torch.device("cpu")
SIZE = 64
ROOT = Path(__file__).resolve().parents[1]
OF_PARTS = ("match", "bleed", "ciede2000")
RIGHT = {"match": 100, "bleed": 0, "ciede2000": 0, "psnr:against=answer": 100, "ssim:against=answer": 1}
RED, GREEN, BLUE, GREY = (200, 40, 40), (40, 160, 60), (50, 70, 200), (128, 128, 128)


def stripes(*edges: int, size: int = SIZE) -> Tensor:
    """(S, S): vertical stripes of parts 0, 1, ..., which end at the edges and at the right border."""
    return torch.bucketize(torch.arange(size), torch.tensor(edges), right=True).expand(size, size).clone()


def painted(parts: Tensor, *colours: tuple[int, int, int]) -> Tensor:
    """(1, 3, S, S): each part in its colour."""
    return torch.tensor(colours, dtype=torch.uint8)[parts].permute(2, 0, 1)[None].contiguous()


def given(
    generated: Tensor, answers: Tensor, parts: Tensor, *, reference_parts: Tensor | None = None, sketch: Tensor | None = None
) -> Pictures:
    """Pictures made by hand, (N, 3, S, S), with parts (N, S, S); references show the same parts, sketches are white."""
    white = torch.full((len(generated), 1, *generated.shape[2:]), 255, dtype=torch.uint8)
    available = {
        "answers": lambda: answers,
        "parts": lambda: parts.byte(),
        "reference_parts": lambda: (parts if reference_parts is None else reference_parts).byte(),
        "sketch": lambda: white if sketch is None else sketch,
    }
    names = [(str(row), str(row)) for row in range(len(generated))]
    return Pictures(generated, names, CPU, available, {}, [f"part {index}" for index in range(int(parts.max()) + 1)])


def numbers(pictures: Pictures, *texts: str) -> dict[str, Number]:
    return measure(pictures, [parse_metric(text) for text in texts or tuple(RIGHT)])


def values(pictures: Pictures, *texts: str) -> dict[str, float]:
    found = numbers(pictures, *texts)
    assert all(number.value is not None for number in found.values()), {key: one.reason for key, one in found.items()}
    return {key: float(number.value or 0) for key, number in found.items()}


def coloured(pictures: Pictures, generated: Tensor) -> Pictures:
    return replace(pictures, generated=generated, _made={}, _own={})


# What pictures know of their references


@pytest.mark.parametrize("references", ["cross", "same"])
def test_the_references_parts_are_those_of_the_pictures_whose_colours_are_taken(references: str) -> None:
    data = Data(size=32)
    dataset = prepare(synthetic(train=2, test=4, size=32), data)
    pairs = PairSet.of(dataset.test, Protocol.model_validate({"references": references}), data)
    pictures = pictures_of(pairs.wanted(), pairs, dataset, CPU)
    parts = dataset.parts
    assert parts is not None
    for found, (_, reference) in zip(pictures.reference_parts, pairs.pairs, strict=True):
        assert np.array_equal(found, parts(dataset.test_pictures[reference]))
    assert torch.equal(pictures.reference_parts, pictures.parts) == (references == "same")


def test_where_nobody_knows_the_references_parts_the_metrics_say_so(folder_of_heads: Callable[..., Path]) -> None:
    data = Data(size=32)
    mine = prepare(folder("mine", folder_of_heads(train=2, test=2)), data)
    drawn = prepare(synthetic(train=2, test=2, size=32), data)

    def reason(dataset: object, protocol: Protocol, others: ImageSet | None = None) -> str | None:
        pairs = PairSet.of(dataset.test, protocol, data, others)  # type: ignore[attr-defined]
        (number,) = numbers(pictures_of(pairs.wanted(), pairs, dataset, CPU), "match").values()  # type: ignore[arg-type]
        assert not number.failed
        return number.reason

    assert reason(mine, Protocol()) == "dataset 'mine' has no right answers"
    elsewhere = Protocol(references="folder", folder="x", folder_digest="1a")
    pictures = pictures_of(drawn.test.images, PairSet.of(drawn.test, elsewhere, data, drawn.test), drawn, CPU)
    with pytest.raises(NotMeasurable, match="the references come from elsewhere, so there are no maps of their parts"):
        _ = pictures.reference_parts
    check_uses(parse_metric("match"), [drawn], [Protocol()])
    with pytest.raises(UserError, match="metric 'match' needs right answers"):
        check_uses(parse_metric("match"), [mine], [Protocol()])


# Colours


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.8361, -74.0200), (50, 0, -82.7485), 3.4412),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0009), 7.1792),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (56, -27, -3), 31.9030),
        ((50, 2.5, 0), (50, 3.1736, 0.5854), 1.0000),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_differences_are_those_that_sharma_et_al_publish(a: Sequence[float], b: Sequence[float], wanted: float) -> None:
    assert difference(np.array(a), np.array(b)) == pytest.approx(wanted, abs=5e-5)
    assert difference(np.array(b), np.array(a)) == pytest.approx(wanted, abs=5e-5)


def test_colours_are_cielab_under_daylight() -> None:
    parts = stripes(32)[None]
    lab = lab_of(given(painted(parts[0], (255, 255, 255), (255, 0, 0)), painted(parts[0], RED, RED), parts), "generated")
    assert lab[0, 0, 0] == pytest.approx([100, 0, 0], abs=0.02)
    assert lab[0, 0, -1] == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


def test_means_of_parts_are_those_of_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    labels, colours = rng.integers(-1, 3, (5, 7)), rng.normal(size=(5, 7, 3))
    found = part_means(labels, colours, 4)
    for part in range(3):
        pixels = [colours[y, x] for y in range(5) for x in range(7) if labels[y, x] == part]
        assert found[part] == pytest.approx(sum(pixels) / len(pixels))
    assert found[3].tolist() == [0, 0, 0]


# Closed forms


def test_the_right_answer_has_the_best_of_all_scores(drawings: Pictures) -> None:
    assert values(drawings) == RIGHT


def test_a_part_in_another_s_colour_is_one_part_wrong_and_as_far_off_as_the_colours_are() -> None:
    parts = stripes(20, 40)
    answers = painted(parts, RED, GREEN, BLUE)
    found = numbers(given(painted(parts, RED, RED, BLUE), answers, parts[None]), *OF_PARTS)
    apart = float(difference(*(lab_of(given(answers, answers, parts[None]), "answers")[0, 0, x] for x in (0, 30))))
    assert found["match"].value == pytest.approx(200 / 3)
    assert found["match"].details["parts"] == {"part 0": 100, "part 1": 0, "part 2": 100}
    assert found["ciede2000"].value == pytest.approx(apart / 3, rel=1e-5)
    assert found["ciede2000"].details["parts"] == {"part 0": 0, "part 1": round(apart, 2), "part 2": 0}
    assert found["bleed"].value == pytest.approx(0, abs=1e-4)


def test_swapped_colours_are_wrong_in_exactly_these_parts() -> None:
    parts = stripes(16, 32, 48)
    pictures = given(painted(parts, RED, BLUE, GREEN, GREY), painted(parts, RED, GREEN, BLUE, GREY), parts[None])
    assert values(pictures, "match", "bleed") == pytest.approx({"match": 50, "bleed": 0}, abs=1e-4)


def test_two_parts_of_the_same_right_colour_are_both_right() -> None:
    parts = stripes(20, 40)
    answers = painted(parts, RED, RED, BLUE)
    assert values(given(answers, answers, parts[None]), "match") == {"match": 100}


@pytest.mark.parametrize("pixels", [0, 1, 2, 3, 6, 8])
def test_colours_that_run_over_a_border_bleed_by_as_much_of_the_band_as_they_cover(pixels: int) -> None:
    """At 128 pixels the band is 8 wide on each side; one of the two parts is covered, the other is not."""
    parts = stripes(64, size=128)
    answers = painted(parts, RED, BLUE)
    found = values(given(shifted(answers, pixels), answers, parts[None]), "match", "bleed")
    assert found == pytest.approx({"match": 100, "bleed": 100 * pixels / 16}, abs=1e-3)


def test_half_of_a_neighbour_s_colour_over_the_whole_band_is_half_as_much() -> None:
    parts = stripes(64, size=128)
    answers = painted(parts, RED, BLUE)
    lab = lab_of(given(answers, answers, parts[None]), "answers")[0]
    labels, red, blue = parts.numpy(), lab[0, 0], lab[0, -1]
    made = lab.copy()
    made[:, 56:72] = (red + blue) / 2
    found = bleeding(labels, labels, made, lab, count=2)
    assert found is not None
    assert found.percent == pytest.approx(50, abs=1e-3)
    assert found.inside == 0
    assert found.band == pytest.approx(np.mean([difference((red + blue) / 2, one) for one in (red, blue)]), rel=1e-4)


def test_errors_of_no_direction_neither_bleed_nor_hide_that_others_do(drawings: Pictures) -> None:
    right, soft = drawings.answers, blurred(drawings.answers, 2)
    made = (soft, noisy(right, 20), noisy(soft, 20))
    clean, noise, both = (values(coloured(drawings, one), "bleed")["bleed"] for one in made)
    assert clean > 5
    assert noise < 1
    assert both == pytest.approx(clean, rel=0.1)


def test_where_parts_are_all_band_or_alike_in_colour_there_is_no_border_to_look_at() -> None:
    narrow, parts, single = stripes(*range(2, SIZE, 2)) % 2, stripes(32), stripes(32) * 0
    cases = {
        "all band": (shifted(painted(narrow, RED, BLUE), 1), narrow),
        "alike": (painted(parts, GREY, GREY), parts),
        "one part": (painted(single, RED), single),
    }
    for made, where in cases.values():
        found = numbers(given(made, painted(where, RED, BLUE), where[None]), "bleed")["bleed"]
        assert (found.value, found.details["no_border"]) == (0, 1)
        assert "band" not in found.details


@pytest.mark.parametrize("levels", [1, 5, 100])
def test_psnr_of_a_known_error_is_the_formula(levels: int) -> None:
    black = np.zeros((3, 8, 8), np.uint8)
    assert psnr(black, black + np.uint8(levels)) == pytest.approx(20 * np.log10(255 / levels))


def test_psnr_is_torchmetrics_and_that_of_equal_pictures_is_100() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    wanted = peak_signal_noise_ratio(torch.tensor(a).double(), torch.tensor(b).double(), data_range=255.0)
    assert psnr(a, b) == pytest.approx(wanted.item())
    assert psnr(a, a) == 100


# What counts


def test_lines_belong_to_no_part() -> None:
    parts = stripes(32)
    answers = painted(parts, RED, BLUE)
    sketch = torch.full((1, 1, SIZE, SIZE), 255, dtype=torch.uint8)
    sketch[..., 30:34], sketch[..., 10] = 0, 127
    generated = answers.where(sketch >= 128, torch.tensor(90, dtype=torch.uint8))
    assert values(given(generated, answers, parts[None], sketch=sketch), *OF_PARTS) == {key: RIGHT[key] for key in OF_PARTS}
    assert values(given(generated, answers, parts[None]), "ciede2000")["ciede2000"] > 1


def test_a_part_that_the_reference_lacks_is_left_out_and_counted() -> None:
    parts, without = stripes(20, 40)[None], stripes(20)[None]
    answers = painted(parts[0], RED, GREEN, BLUE)
    pictures = given(painted(parts[0], RED, GREEN, RED), answers, parts, reference_parts=without)
    for number in numbers(pictures, *OF_PARTS).values():
        assert number.value == RIGHT[number.descriptor.name]
        assert (number.details["lacking"], number.details["too_small"], number.details["no_part"]) == (1, 0, 0)
    assert set(numbers(pictures, "match")["match"].details["parts"]) == {"part 0", "part 1"}


@pytest.mark.parametrize(("pixels", "counts"), [(MIN_SHARE * SIZE**2 - 1, False), (MIN_SHARE * SIZE**2 + 1, True)])
def test_what_the_reference_hardly_shows_it_lacks(pixels: float, counts: bool) -> None:
    parts = stripes(20)[None]
    hardly = torch.zeros_like(parts)
    hardly.view(-1)[: round(pixels)] = 1
    answers = painted(parts[0], RED, GREEN)
    regions = regions_of(given(answers, answers, parts, reference_parts=hardly))
    assert regions.counted.tolist() == [[True, counts]]
    assert regions.lacking == 1 - counts


@pytest.mark.parametrize(("pixels", "counts"), [(MIN_PIXELS - 1, False), (MIN_PIXELS, True)])
def test_a_part_of_too_few_pixels_is_left_out_and_counted(pixels: int, counts: bool) -> None:
    parts = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    parts[0, 0, :8] = 1
    sketch = torch.full((1, 1, SIZE, SIZE), 255, dtype=torch.uint8)
    sketch[..., 0, pixels:8] = 0  # the rest of the part is a line
    answers = painted(parts[0], RED, GREEN)
    regions = regions_of(given(answers, answers, parts, reference_parts=stripes(20)[None], sketch=sketch))
    assert regions.counted.tolist() == [[True, counts]]
    assert (regions.lacking, regions.too_small) == (0, 1 - counts)


def test_a_picture_of_which_no_part_counts_scores_as_the_right_answer_and_a_set_of_such_pictures_has_no_number() -> None:
    parts = torch.stack([stripes(20), torch.full((SIZE, SIZE), 1)])
    shown = torch.stack([stripes(20), torch.zeros(SIZE, SIZE, dtype=torch.long)])
    answers = painted(parts[0], RED, GREEN).expand(2, -1, -1, -1)
    pictures = given(painted(parts[0], GREEN, RED).expand(2, -1, -1, -1), answers, parts, reference_parts=shown)
    found = numbers(pictures, *OF_PARTS)
    assert found["match"].scores is not None
    assert found["match"].scores.tolist() == [0, 100]
    for key, number in found.items():
        assert number.scores is not None
        assert number.scores[1] == RIGHT[key]
        assert number.details["no_part"] == 1
    alone = given(answers[1:], answers[1:], parts[1:], reference_parts=shown[1:])
    for number in numbers(alone, *OF_PARTS).values():
        assert (number.value, number.failed) == (None, False)
        assert number.reason == "no reference shows a part of its sketch that is large enough"


def test_chance_is_what_a_naive_loop_over_single_palettes_finds() -> None:
    """Each part in the colour, of those that it has in the answers, that is right in most of the other pictures."""
    rng = np.random.default_rng(1)
    edges = [(20, 40), (10, 30), (30,), (20, 50), (16, 32), (8, 40)]
    parts = torch.stack([stripes(*one) for one in edges])
    palettes = rng.integers(0, 256, (len(edges), 3, 3)).tolist()
    answers = torch.cat([painted(one, *map(tuple, palette)) for one, palette in zip(parts, palettes, strict=True)])
    pictures = given(answers, answers, parts)
    labs = lab_of(pictures, "answers")
    entries = [{p: labs[i][(parts[i] == p).numpy()].mean(0) for p in parts[i].unique().tolist()} for i in range(len(edges))]

    def right(picture: int, part: int, colour: np.ndarray) -> bool:
        distances = {other: float(difference(colour, entry)) for other, entry in entries[picture].items()}
        return min(distances, key=distances.__getitem__) == part

    def often(j: int, part: int) -> float:
        asked = [k for k, other in enumerate(entries) if k != j and part in other]
        return float(np.mean([right(k, part, entries[j][part]) for k in asked]))

    best = {part: max(often(j, part) for j, other in enumerate(entries) if part in other) for part in range(3)}
    scores = [np.mean([best[part] for part in own]) for own in entries]
    found = numbers(pictures, "match")["match"].details["chance"]
    assert found == pytest.approx(100 * np.mean(scores), abs=0.006)
    assert 0 < found < 100
    alone = given(answers[:1], answers[:1], parts[:1])
    assert "chance" not in numbers(alone, "match")["match"].details


def test_chance_is_more_than_another_reference_s_colours_score_and_less_than_the_right_ones(drawings: Pictures) -> None:
    number = numbers(coloured(drawings, drawings.reference), "match")["match"]
    assert number.value is not None
    assert 20 < number.value < 70
    assert 20 < number.details["chance"] < 90


def test_of_a_single_part_there_is_nothing_to_match() -> None:
    parts = stripes(20) * 0
    answers = painted(parts, RED)
    (number,) = numbers(given(answers, answers, parts[None]), "match").values()
    assert (number.value, number.failed) == (None, False)
    assert number.reason == "no picture has two parts that count, and of one colour there is nothing to choose"


def test_psnr_to_the_answer_leaves_out_what_nobody_can_know() -> None:
    parts, without = stripes(32)[None], torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    answers = painted(parts[0], GREY, RED)
    made = (answers + 5).byte()
    made[..., 32:] = 0
    pictures = given(made, answers, parts, reference_parts=without)
    assert values(pictures, "psnr:against=answer")["psnr:against=answer"] == pytest.approx(20 * np.log10(255 / 5))
    (number,) = numbers(given(made, answers, parts, reference_parts=parts + 2), "psnr:against=answer").values()
    assert number.reason == "no reference shows any part of its sketch"


# Against the original, or against the answer


@pytest.mark.parametrize("name", ["psnr", "ssim", "lpips"])
def test_the_option_against_makes_another_column_that_needs_answers(name: str) -> None:
    usual, other = parse_metric(name), parse_metric(f"{name}:against=answer")
    assert (usual.key, other.key) == (name, f"{name}:against=answer")
    assert other.descriptor.title == f"{usual.descriptor.title} to the answer"
    assert usual.uses == ("wanted",)
    assert other.uses == ("answers", "parts", "reference_parts")
    with pytest.raises(UserError, match=f"metric '{name}' .*against=both: expected original(,| or) answer"):
        parse_metric(f"{name}:against=both")


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_what_nobody_can_know_makes_a_picture_neither_better_nor_worse(name: str) -> None:
    parts, without = stripes(20, 40)[None], stripes(20)[None]
    answers = painted(parts[0], RED, GREEN, BLUE)
    one, other = (
        values(given(painted(parts[0], RED, GREY, colour), answers, parts, reference_parts=without), f"{name}:against=answer")
        for colour in (BLUE, GREY)
    )
    assert one == other
    assert one != values(given(answers, answers, parts, reference_parts=without), f"{name}:against=answer")


def test_numbers_that_were_stored_before_a_metric_had_the_option_still_stand() -> None:
    found = [
        (measurement["identity"], key, number)
        for file in sorted((ROOT / "results").rglob("cell.json"))
        for measurement in json.loads(file.read_text()).get("measurements", [])
        for key, number in measurement["metrics"].items()
        if number["value"] is not None
    ]
    assert {key.partition(":")[0] for _, key, _ in found} >= {"ssim", "lpips"}
    parsed = cache(parse_metric)
    for measurement, key, number in found:
        described = parsed(key).descriptor
        assert described.options == number["metric"]["options"]
        assert described.title == number["metric"]["title"]
        assert number_identity(measurement, described.name, described.options, number.get("weights", {})) == number["identity"]
    assert parse_metric("ssim:against=answer").descriptor.options == {"against": "answer"}


# What the metrics answer to, on drawings with their real references


def largest(pictures: Pictures) -> tuple[int, int]:
    """The two largest parts that count in every picture."""
    counted = regions_of(pictures).counted.all(0)
    sizes = torch.bincount(pictures.parts.flatten(), minlength=len(counted)).numpy() * counted
    second, first = np.argsort(sizes)[-2:]
    return int(first), int(second)


RESPONSES: list[tuple[str, Sequence[float], Callable[[Tensor, Tensor, float], Tensor], dict[str, str]]] = [
    (
        "recoloured by a distance",
        (0, 5, 10, 20, 40, 60),
        recoloured,
        {"match": "falls at last", "bleed": "stays", "ciede2000": "worsens", "psnr:against=answer": "worsens"},
    ),
    (
        "colours shifted over borders",
        (0, 1, 2, 3, 4),
        lambda images, parts, by: shifted(images, int(by)),
        {"match": "stays", "bleed": "worsens", "ciede2000": "worsens", "psnr:against=answer": "worsens"},
    ),
    (
        "blurred",
        (0, 0.5, 1, 2),
        lambda images, parts, by: blurred(images, by),
        {
            "match": "stays",
            "bleed": "worsens",
            "ciede2000": "worsens",
            "psnr:against=answer": "worsens",
            "ssim:against=answer": "worsens",
        },
    ),
]
STAYS = {"match": 75, "bleed": 1}  # small parts go first; and colours that sRGB does not have are not those asked for


@pytest.mark.parametrize(("steps", "distort", "wanted"), [case[1:] for case in RESPONSES], ids=[case[0] for case in RESPONSES])
def test_each_metric_answers_to_what_it_measures_and_to_nothing_else(
    steps: Sequence[float], distort: Callable[[Tensor, Tensor, float], Tensor], wanted: dict[str, str], drawings: Pictures
) -> None:
    found = [values(coloured(drawings, distort(drawings.answers, drawings.parts, step)), *wanted) for step in steps]
    for key, response in wanted.items():
        sign = 1 if parse_metric(key).descriptor.lower_is_better else -1
        badness = [sign * one[key] for one in found]
        assert badness[0] == sign * RIGHT[key]
        if response == "worsens":
            assert all(b > a for a, b in pairwise(badness)), (key, badness)
        elif response == "falls at last":
            assert all(b >= a for a, b in pairwise(badness)), (key, badness)
            assert badness[-1] > -70
        else:
            assert max(badness) <= sign * STAYS[key], (key, badness)


def test_two_parts_in_each_other_s_colours_are_two_parts_wrong_on_drawings_too(drawings: Pictures) -> None:
    first, second = largest(drawings)
    found = numbers(coloured(drawings, swapped(drawings.answers, drawings.parts, first, second)), "match", "bleed")
    counted = regions_of(drawings).counted.sum(1)
    assert found["match"].scores == pytest.approx(100 * (counted - 2) / counted)
    assert found["bleed"].value is not None
    assert found["bleed"].value < STAYS["bleed"]


def test_the_sketch_itself_has_hardly_a_right_colour_and_nothing_that_could_bleed(drawings: Pictures) -> None:
    found = numbers(coloured(drawings, drawings.sketch.expand(-1, 3, -1, -1).clone()), "match", "bleed")
    assert found["match"].value is not None
    assert found["match"].value < 50
    assert found["bleed"].details["no_border"] >= len(drawings) - 1
