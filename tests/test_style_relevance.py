"""Style relevance to the reference: held to a second computation, and what it answers to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench import Pictures, check_metric, weights
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy, shifted
from attnbench.data.images import prepare
from attnbench.data.layouts import synthetic
from attnbench.data.synthetic import draw
from attnbench.method.losses import PerceptualFeatures
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.pictures import CHUNK
from attnbench.metrics.protocol import Protocol
from attnbench.metrics.style import means_of, similarities

CPU = torch.device("cpu")


def heads(count: int, *, seed: int = 0, size: int = 48) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(draw(seed, i, size))).permute(2, 0, 1) for i in range(count)])


def given(generated: Tensor, reference: Tensor, wanted: Tensor | None = None) -> Pictures:
    """Pictures with their references, and originals or none."""
    available = {"reference": lambda: reference, **({} if wanted is None else {"wanted": lambda: wanted})}
    return Pictures(generated, [("a", "b")] * len(generated), CPU, available)


def number(pictures: Pictures) -> Number:
    (found,) = measure(pictures, [parse_metric("style")]).values()
    assert found.value is not None, found.reason
    return found


def value(generated: Tensor, reference: Tensor) -> float:
    return float(number(given(generated, reference)).value or 0)


def turned(images: Tensor, degrees: float) -> Tensor:
    """Hues turned about the grey axis of RGB."""
    angle, axis = math.radians(degrees), torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * torch.outer(axis, axis)
    return torch.einsum("ij,bjhw->bihw", rotation, images.float()).round().clamp(0, 255).to(torch.uint8)


# Means of channels


def layers_of(images: Tensor) -> list[Tensor]:
    """Made-up features: the colours themselves, and the lightest of each two rows."""
    return [images, F.max_pool2d(images, (2, 1))[:, :2]]


def test_means_are_over_positions_whatever_the_batches_and_equal_images_are_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.cat([heads(5), heads(2), heads(1, seed=1)])
    seen: list[int] = []

    def features(batch: Tensor) -> list[Tensor]:
        seen.append(len(batch))
        return layers_of(batch)

    pictures = given(images, images)
    first, second = means_of(pictures, images, features)
    assert seen == [4, 2]  # of eight images two come twice
    colours = images.double() / 127.5 - 1
    assert torch.allclose(first, colours.mean((2, 3)), atol=1e-6)
    assert torch.allclose(second, layers_of(colours)[1].mean((2, 3)), atol=1e-6)
    monkeypatch.setitem(CHUNK, "cpu", 1)
    for again, layer in zip(means_of(pictures, images, features), (first, second), strict=True):
        assert torch.allclose(again, layer, atol=1e-6)


def test_the_cosine_knows_no_scale_and_is_zero_at_right_angles() -> None:
    a = torch.tensor([[3.0, 0, 0], [1, 1, 0], [1, 2, 2]]).double()
    b = torch.tensor([[5.0, 0, 0], [0, 0, 7], [2, 1, 2]]).double()
    assert similarities((a,), (b,))[0] == pytest.approx([1, 0, 8 / 9])


# With real weights


@pytest.fixture
def vgg19(torch_home: Path) -> dict[str, Tensor]:
    """Its weights, up to relu2_2 at least."""
    if (path := weights.find("vgg19")) is None:
        pytest.skip("needs the weights vgg19")
    return weights.load_state(path)


def naive(generated: Tensor, reference: Tensor, state: dict[str, Tensor]) -> tuple[list[float], list[float]]:
    """Colour and texture of each picture in float64: convolutions by the names of torchvision, cosines by loops."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def convolved(images: Tensor, layer: int) -> Tensor:
        weight, bias = (state[f"features.{layer}.{kind}"].double() for kind in ("weight", "bias"))
        return F.conv2d(images, weight, bias, padding=1).clamp(min=0)

    def means(image: Tensor) -> list[list[float]]:
        channels = [(image[c].double() / 255 - mean[c]) / deviation[c] for c in range(3)]
        colour = convolved(convolved(torch.stack(channels)[None], 0), 2)
        texture = convolved(convolved(F.max_pool2d(colour, 2), 5), 7)
        return [[float(layer[0, c].mean()) for c in range(layer.shape[1])] for layer in (colour, texture)]

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    pairs = [(means(a), means(b)) for a, b in zip(generated, reference, strict=True)]
    return [cosine(a[0], b[0]) for a, b in pairs], [cosine(a[1], b[1]) for a, b in pairs]


def test_it_is_what_a_second_computation_gives(vgg19: dict[str, Tensor]) -> None:
    images, reference, wanted = blurred(heads(5), 1), heads(5, seed=1), heads(5)
    colour, texture = naive(images, reference, vgg19)
    found = number(given(images, reference, wanted))
    assert found.scores == pytest.approx((np.array(colour) + texture) / 2, abs=1e-6)
    assert found.details["colour"] == pytest.approx(np.mean(colour), abs=1e-4)
    assert found.details["texture"] == pytest.approx(np.mean(texture), abs=1e-4)
    assert found.details["original"] == pytest.approx(np.mean(naive(wanted, reference, vgg19)), abs=1e-4)
    path = weights.find("vgg19")
    assert path is not None
    assert found.weights == {"vgg19": weights.file_digest(path)}


def test_the_reference_itself_has_one_and_every_score_is_its_pictures_own(vgg19: dict[str, Tensor]) -> None:
    reference = heads(6, seed=1)
    found = number(given(reference, reference))
    assert found.scores == pytest.approx(np.ones(6), abs=1e-7)
    assert found.value is not None
    assert found.value <= 1
    assert found.details == {"n": 6, "colour": 1, "texture": 1}
    one = number(given(heads(6), reference)).scores
    mixed = number(given(heads(6).flip(0), reference.flip(0))).scores
    assert one is not None
    assert mixed == pytest.approx(one[::-1], abs=1e-6)
    alone = [value(heads(6)[row : row + 1], reference[row : row + 1]) for row in range(6)]
    assert alone == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize(
    ("distortion", "amounts", "least", "most"),
    [
        (turned, (0, 20, 40, 80, 120), 0.8, 0.96),
        (blurred, (0, 0.5, 1, 2, 4), 0.8, 0.97),
        (noisy, (0, 10, 25, 60), 0.7, 0.95),
    ],
)
def test_it_falls_the_further_colours_are_turned_and_with_blur_and_noise(
    distortion: Callable[[Tensor, float], Tensor], amounts: tuple[float, ...], least: float, most: float, vgg19: object
) -> None:
    reference = heads(4, seed=1, size=64)
    found = [value(distortion(reference, amount), reference) for amount in amounts]
    assert found[0] == pytest.approx(1)
    assert all(nearer > farther for nearer, farther in pairwise(found)), found
    assert least < found[-1] < most, found


def test_colour_answers_to_hues_and_texture_to_blur(vgg19: object) -> None:
    reference = heads(4, seed=1, size=64)
    hues, blur = (number(given(made, reference)).details for made in (turned(reference, 90), blurred(reference, 2)))
    assert hues["colour"] < hues["texture"] - 0.02
    assert blur["texture"] < blur["colour"] - 0.02


def test_where_things_are_makes_hardly_a_difference(vgg19: object) -> None:
    reference = heads(4, seed=1, size=64)
    for moved in (shifted(reference, 4), reference.flip(3)):
        assert value(moved, reference) > 0.99
    assert value(shifted(reference, 4), reference) > value(turned(reference, 20), reference)


def test_right_answers_come_nearer_to_the_reference_than_the_originals_and_a_copy_wins(vgg19: object) -> None:
    data = Data(size=64)
    dataset = prepare(synthetic(train=2, test=8, size=64), data)
    pairs = PairSet.of(dataset.test, Protocol(), data)
    pictures = pictures_of(pairs.wanted(), pairs, dataset, CPU)
    originals, answers, copies = (
        number(replace(pictures, generated=made, _made={}, _own={}))
        for made in (pictures.wanted, pictures.answers, pictures.reference)
    )
    assert originals.value == pytest.approx(originals.details["original"], abs=1e-4)
    assert originals.details["original"] == answers.details["original"] == copies.details["original"]
    assert originals.value is not None
    assert answers.value is not None
    assert copies.value is not None
    assert originals.value + 0.02 < answers.value < copies.value == pytest.approx(1)


def test_it_keeps_the_contract_of_metrics(vgg19: object) -> None:
    report = check_metric("style", device="cpu")
    report.raise_if_failed()
    assert {found.name for found in report.findings if found.status == "note"} == {"direction"}  # the best is no original


def test_it_says_what_it_needs_and_which_metric_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = parse_metric("style")
    assert (metric.needs, metric.uses) == (("vgg19",), ("reference",))
    assert metric.scorer.companion == "outline"  # type: ignore[attr-defined]
    assert "vgg19" in weights.catalogue()

    def missing(name: str) -> Path:
        raise weights.MissingWeights(name, "not here")

    monkeypatch.setattr(weights, "find_or_download", missing)
    (found,) = measure(given(heads(2), heads(2)), [metric]).values()
    assert (found.value, found.missing, found.failed) == (None, "vgg19", False)


def test_references_from_elsewhere_have_no_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up weights, which need no file."""
    torch.manual_seed(0)
    network = PerceptualFeatures(imagenet_normalization=True)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    monkeypatch.setattr(PerceptualFeatures, "pretrained", lambda **_: network)
    monkeypatch.setattr(weights, "find_or_download", lambda name: Path(__file__))
    images = heads(3, size=32)
    assert set(number(given(images, images)).details) == {"n", "colour", "texture"}
    assert set(number(given(images, images, images)).details) == {"n", "colour", "texture", "original"}
