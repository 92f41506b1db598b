"""The oracle against a naive count of pixels, and through the real warps: in training, and under each kind of references."""

import pytest
import torch
from modules import build, encoded, maps, naive_warp, places

from attnbench import console
from attnbench.config.recipe import load_recipe
from attnbench.data.batches import own_reference_shows
from attnbench.data.warp import middles
from attnbench.method.backbone import Context
from attnbench.method.probe import Observations, listening
from attnbench.metrics.generate import PairSet, generate
from attnbench.metrics.protocol import Protocol
from attnbench.training.loop import batches
from attnbench.training.state import build_generator
from attnbench_baselines.none import NoReference
from attnbench_baselines.oracle import UNKNOWN, Oracle, true_map

CPU = torch.device("cpu")


def naive_true_map(shows, sketch, reference):
    """A of one sample, pixel by pixel: (n, m)."""
    (h, w), (rows, columns), (height, width) = sketch, reference, shows.shape[:2]
    counts = torch.zeros(h * w, rows * columns)
    for y in range(height):
        for x in range(width):
            px, py = shows[y, x].tolist()
            if 0 <= px < 1 and 0 <= py < 1:
                cell = int(py * h) * w + int(px * w)
                there = int((y + 0.5) / height * rows) * columns + int((x + 0.5) / width * columns)
                counts[cell, there] += 1
    for row in counts:
        if row.sum():
            row /= row.sum()
    return counts


@pytest.mark.parametrize("other", [(3, 4), (2, 5)])
@torch.no_grad()
def test_oracle_equals_a_naive_count_of_pixels(other):
    f_s, _ = maps()
    _, f_r = maps(*other)
    shows = torch.cat([places(f_r)[:1], places(f_r)[1:].flip(1)])
    context = Context(encoded(f_s), encoded(f_r), encode_drawing=encoded, shows=shows)
    got = build(Oracle, {})(f_s, f_r, context=context)
    for b in range(len(f_s)):
        attention = naive_true_map(shows[b], (3, 4), other)
        assert torch.allclose(true_map(shows, f_s.shape[-2:], f_r.shape[-2:])[b], attention)
        assert torch.allclose(got[b], f_s[b] + naive_warp(attention, f_r[b], (3, 4)), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(8, 8, 4, 4), (33, 50, 9, 13), (7, 48, 2, 12), (5, 5, 1, 1)])
def test_of_a_reference_that_is_not_warped_every_cell_is_its_own(height, width, rows, columns):
    size = torch.Size([rows, columns])
    assert torch.equal(true_map(middles(height, width)[None].float(), size, size)[0], torch.eye(rows * columns))


@torch.no_grad()
def test_cells_that_the_reference_does_not_show_get_nothing():
    f_s, f_r = maps()
    outside = torch.full((2, 12, 16, 2), 1.5)
    context = Context(encoded(f_s), encoded(f_r), encode_drawing=encoded, shows=outside)
    assert torch.equal(build(Oracle, {})(f_s, f_r, context=context), f_s)


def pairs_of(dataset, recipe, references):
    return PairSet.of(dataset.test, Protocol(references=references), recipe.data)


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    """Whatever other tests were told in this process."""
    monkeypatch.setattr(console, "_told_once", set())


@pytest.fixture
def recipe():
    """At the size of the images of `dataset`: maps of 16 x 16."""
    return load_recipe("demo", ["data.size=64", "train.batch_size=2"])


def test_in_training_it_looks_where_the_batchs_own_warp_says(dataset, recipe):
    generator = build_generator(Oracle, recipe, seed=0)
    (batch,) = batches(dataset.train, recipe, seed=0, device=CPU, first=0, count=1)
    assert batch.shows.shape == (2, 64, 64, 2)
    with listening(seen := Observations()):
        generator(*batch.given)
    (attention,) = seen.values["attention"]
    for shows, got in zip(batch.shows, attention, strict=True):
        assert torch.allclose(got, naive_true_map(shows, (16, 16), (16, 16)))


@pytest.mark.parametrize("references", ["same", "marked"])
def test_known_warps_reach_it_in_evaluation(dataset, recipe, references, caplog):
    generator = build_generator(Oracle, recipe, seed=0).eval()
    pairs = pairs_of(dataset, recipe, references)
    with listening(seen := Observations()):
        generate(generator, pairs, CPU, batch=len(pairs))
    (attention,) = seen.values["attention"]
    for place, (_, reference) in enumerate(pairs.pairs):
        shows = torch.from_numpy(own_reference_shows(reference, recipe.data, pairs.protocol.warp_seed)).float()
        assert torch.allclose(attention[place], naive_true_map(shows, (16, 16), (16, 16)))
    assert not caplog.records


def test_of_another_image_it_does_what_none_does_and_says_so_once(dataset, recipe, caplog):
    pairs = pairs_of(dataset, recipe, "cross")
    oracle, none = (build_generator(module, recipe, seed=0).eval() for module in (Oracle, NoReference))
    coloured = generate(oracle, pairs, CPU, batch=2)
    assert torch.equal(coloured, generate(none, pairs, CPU, batch=2))
    assert [record.getMessage() for record in caplog.records] == [UNKNOWN]


def test_without_a_context_it_does_what_none_does(caplog):
    f_s, f_r = maps()
    assert torch.equal(build(Oracle, {})(f_s, f_r), f_s)
    assert not caplog.records  # in train mode: a module that is being tried out
    assert torch.equal(build(Oracle, {}).eval()(f_s, f_r), f_s)
    assert [record.getMessage() for record in caplog.records] == [UNKNOWN]
