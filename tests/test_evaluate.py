"""Evaluation: which pairs, what is generated, and what is measured or honestly left out.

Networks have made-up weights here, so that these tests run anywhere; test_metrics.py holds the metrics against real ones.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from attnbench import weights
from attnbench.config.recipe import Data, Evaluation, Recipe
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.layouts import synthetic
from attnbench.method.precision import tf32
from attnbench.metrics import protocol as evaluation
from attnbench.metrics.frechet import InceptionFeatures, features_of, frechet_distance, kernel_distance
from attnbench.metrics.perceptual import LPIPS
from attnbench.metrics.protocol import Measured, evaluate, generate, pair_list, to_bytes
from attnbench.metrics.ssim import grey_levels, ssim, ssim_global

CPU = torch.device("cpu")
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"
COUNTS = range(2, 51)


def recipe(*metrics: str, **options: object) -> Recipe:
    chosen = Evaluation.model_validate(
        {"metrics": metrics or ("ssim_global",), "fid_dims": 64, "lpips_network": "squeeze", **options}
    )
    return Recipe(data=Data(size=32), evaluation=chosen)


def heads(train: int = 7, test: int = 6, size: int = 32) -> PreparedDataset:
    return prepare(synthetic(train=train, test=test, size=size), Data(size=32))


class CopyReference(nn.Module):
    """Gives back the reference."""

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        return reference


class Painter(nn.Module):
    """A small network whose batch norm betrays whether it was in eval mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.Tanh())

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        painted: Tensor = self.layers(torch.cat([sketch, reference], 1))
        return painted


@pytest.fixture(scope="session")
def made_up_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch home with networks of the right shapes and random weights; above its 768 channels the Inception is NaN."""
    home = tmp_path_factory.mktemp("torch")
    checkpoints = home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    # pytorch-fid's network has torchvision's layers, and runs some of them differently.
    inception = models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in inception.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # keeps features in range through 40 layers
    nn.init.constant_(inception.Mixed_7a.branch3x3_2.conv.weight, float("nan"))
    torch.save(inception.state_dict(), checkpoints / INCEPTION)
    torch.save(models.squeezenet1_1().state_dict(), checkpoints / SQUEEZENET)
    return home


@pytest.fixture
def with_weights(made_up_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(made_up_weights))
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return made_up_weights


@pytest.fixture
def without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


# Pairs


def test_a_derangement_colours_every_sketch_once_uses_every_reference_once_and_never_pairs_an_image_with_itself() -> None:
    for count in COUNTS:
        for seed in range(5):
            pairs = pair_list(count, Evaluation(pair_seed=seed))
            assert [sketch for sketch, _ in pairs] == list(range(count))
            assert sorted(reference for _, reference in pairs) == list(range(count))
            assert all(sketch != reference for sketch, reference in pairs)


def test_pairs_depend_on_the_number_of_images_and_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = pair_list(50, Evaluation())
    torch.manual_seed(1)
    assert first == pair_list(50, Evaluation(format="jpeg75", fid_dims=64))
    assert len({tuple(pair_list(50, Evaluation(pair_seed=seed))) for seed in range(10)}) == 10


def test_every_other_image_is_as_likely_a_reference() -> None:
    references = [pair_list(4, Evaluation(pair_seed=seed))[0][1] for seed in range(300)]
    assert np.bincount(references, minlength=4)[0] == 0
    assert np.bincount(references, minlength=4)[1:].min() > 70


@pytest.mark.parametrize(("count", "used"), [(1000, 992), (500, 496), (16, 16), (33, 32)])
def test_official_pairs_are_whole_batches_of_sixteen_and_drop_the_rest(count: int, used: int) -> None:
    pairs = pair_list(count, Evaluation(pairing="official"))
    assert len(pairs) == used
    assert len({sketch for sketch, _ in pairs}) == used


def test_official_pairs_shift_references_by_one_within_each_batch() -> None:
    pairs = pair_list(100, Evaluation(pairing="official"))
    for start in range(0, 96, 16):
        sketches, references = zip(*pairs[start : start + 16], strict=True)
        assert references == (*sketches[1:], sketches[0])


def test_official_pairs_are_shuffled_by_the_seed() -> None:
    drawn = {tuple(pair_list(64, Evaluation(pairing="official", pair_seed=seed))) for seed in (0, 0, 1, 2)}
    assert len(drawn) == 3
    assert all([sketch for sketch, _ in pairs] != list(range(64)) for pairs in drawn)


def test_fewer_images_than_an_official_batch_make_one_batch() -> None:
    for count in range(2, 16):
        pairs = pair_list(count, Evaluation(pairing="official"))
        assert len(pairs) == count
        assert all(sketch != reference for sketch, reference in pairs)


# Generation


def test_bytes_are_rounded_and_cut_at_black_and_white() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(levels.float() / 127.5 - 1), levels)
    assert to_bytes(torch.tensor([-7.0, -1.0, 0.001, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


def test_each_sketch_is_coloured_with_its_own_reference_in_the_order_of_the_pairs() -> None:
    test = heads().test
    generated = generate(CopyReference(), test, [(0, 4), (1, 2), (5, 0)], recipe(), CPU)
    assert torch.equal(generated, test.images[[4, 2, 0]])


def test_generation_is_in_eval_mode_and_leaves_the_mode_and_the_weights_as_they_were() -> None:
    test, pairs = heads().test, [(0, 1), (2, 3)]
    wanted = generate(Painter().eval(), test, pairs, recipe(), CPU)
    for training in (True, False):
        painter = Painter().train(training)
        before = {name: value.clone() for name, value in painter.state_dict().items()}
        assert torch.equal(generate(painter, test, pairs, recipe(), CPU), wanted)
        assert painter.training == training
        assert all(torch.equal(value, before[name]) for name, value in painter.state_dict().items())


@pytest.mark.parametrize("size", [1, 4, 100])
def test_generated_images_do_not_depend_on_the_batch_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    test, pairs = heads().test, pair_list(6, Evaluation())
    wanted = generate(Painter(), test, pairs, recipe(), CPU)
    monkeypatch.setattr(evaluation, "BATCH", size)
    generated = generate(Painter(), test, pairs, recipe(), CPU)
    assert (generated.int() - wanted.int()).abs().max() <= 1
    assert (generated != wanted).float().mean() < 0.01


def test_evaluation_is_in_full_float32_whatever_training_left_and_leaves_the_switches_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    seen = []

    class Watching(CopyReference):
        def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
            seen.extend(switch.allow_tf32 for switch in switches)
            return super().forward(sketch, reference)

    def watching(a: Tensor, b: Tensor) -> Tensor:
        seen.extend(switch.allow_tf32 for switch in switches)
        return ssim_global(a, b)

    monkeypatch.setattr(evaluation, "ssim_global", watching)
    for allowed in (True, False):
        with tf32(allowed, products=allowed):
            evaluate(Watching(), heads(), recipe("ssim_global"), CPU)
            assert [switch.allow_tf32 for switch in switches] == [allowed, allowed]
    assert len(seen) == 2 * (2 + 4)  # six images: one batch for the generator, two chunks for the metric
    assert not any(seen)


def test_jpeg75_is_what_a_jpeg_file_of_quality_75_gives_back() -> None:
    test, pairs = heads().test, [(0, 1), (2, 3)]
    plain = generate(Painter(), test, pairs, recipe(), CPU)
    squeezed = generate(Painter(), test, pairs, recipe(format="jpeg75"), CPU)
    for before, after in zip(plain, squeezed, strict=True):
        file = io.BytesIO()
        Image.fromarray(before.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
        assert np.array_equal(after.permute(1, 2, 0), np.asarray(Image.open(file)))
        assert not torch.equal(before, after)


# Scores of images


def test_a_score_compares_the_generated_image_with_the_sketch_s_own_colours_not_with_the_reference() -> None:
    data_set = heads()
    measured = evaluate(CopyReference(), data_set, recipe("ssim_global", "ssim"), CPU)
    assert list(measured.scores.columns) == ["sketch", "reference", "ssim_global", "ssim"]
    images = dict(zip(data_set.test.names, grey_levels(data_set.test.images), strict=True))
    for row in measured.scores.itertuples():
        assert row.sketch != row.reference
        a, b = images[row.reference][None], images[row.sketch][None]
        assert row.ssim_global == pytest.approx(ssim_global(a, b).item())
        assert row.ssim == pytest.approx(ssim(a, b).item())


def test_a_metric_is_the_mean_of_its_scores_and_says_of_how_many() -> None:
    measured = evaluate(Painter(), heads(), recipe("ssim", "ssim_global"), CPU)
    assert list(measured.metrics) == ["ssim", "ssim_global"]
    for name, metric in measured.metrics.items():
        assert metric == {"value": pytest.approx(measured.scores[name].mean()), "n": 6}


def test_official_pairing_scores_only_the_images_that_it_draws() -> None:
    measured = evaluate(CopyReference(), heads(test=18), recipe(pairing="official"), CPU)
    assert len(measured.scores) == measured.metrics["ssim_global"]["n"] == 16


def test_lpips_scores_name_the_network_and_its_weights(with_weights: Path) -> None:
    data_set = heads()
    measured = evaluate(CopyReference(), data_set, recipe("lpips"), CPU)
    pairs = torch.tensor(pair_list(6, Evaluation()))
    wanted = LPIPS("squeeze")(data_set.test.images[pairs[:, 1]], data_set.test.images[pairs[:, 0]])
    assert measured.scores["lpips"].to_numpy() == pytest.approx(wanted.numpy(), rel=1e-4)
    metric = measured.metrics["lpips"]
    assert (metric["network"], metric["n"]) == ("squeeze", 6)
    assert metric["weights"] == weights.file_digest(with_weights / "hub" / "checkpoints" / SQUEEZENET)


# Distances of sets


def test_reproducing_the_test_set_has_fid_zero_and_a_floor_of_as_many_training_images(with_weights: Path) -> None:
    data_set = heads()
    measured = evaluate(CopyReference(), data_set, recipe("kid", "fid"), CPU)
    network = InceptionFeatures(64)
    test, train = (features_of([images], network, CPU) for images in (data_set.test.images, data_set.train.images))
    drawn = np.random.default_rng(0).permutation(7)[:6]  # which training images, the pairs' seed says
    fid, kid = measured.metrics["fid"], measured.metrics["kid"]
    assert fid["value"] == pytest.approx(0, abs=1e-6 * test.var(0).sum())
    assert kid["value"] == pytest.approx(kernel_distance(test, test), rel=1e-4)
    assert fid["floor"] == pytest.approx(frechet_distance(train[drawn], test), rel=1e-4)
    assert kid["floor"] == pytest.approx(kernel_distance(train[drawn], test), rel=1e-4)
    assert (fid["n"], fid["n_real"], fid["n_floor"], fid["dims"]) == (6, 6, 6, 64)
    assert fid["weights"] == weights.file_digest(with_weights / "hub" / "checkpoints" / INCEPTION)
    assert list(measured.metrics) == ["kid", "fid"]


def test_real_images_enter_at_their_native_size_unless_the_target_size_is_asked_for(with_weights: Path) -> None:
    data_set = heads(4, 4, size=64)
    native = evaluate(CopyReference(), data_set, recipe("fid"), CPU).metrics["fid"]
    target = evaluate(CopyReference(), data_set, recipe("fid", real_size="target"), CPU).metrics["fid"]
    pixels = np.stack([np.array(picture.open()) for picture in data_set.test_pictures]).transpose(0, 3, 1, 2)
    network = InceptionFeatures(64)
    sharp = features_of([torch.from_numpy(pixels)], network, CPU)
    soft = features_of([data_set.test.images], network, CPU)
    assert native["value"] == pytest.approx(frechet_distance(soft, sharp), rel=1e-3)
    assert target["value"] < 1e-3 * native["value"]
    assert (native["real_size"], target["real_size"]) == ("native", "target")


def test_features_of_real_images_are_computed_once_a_data_set_and_then_kept(
    with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counting(batches: Iterable[Tensor], network: nn.Module, device: torch.device) -> np.ndarray:
        features = features_of(batches, network, device)
        computed.append(len(features))
        return features

    def measure(data_set: PreparedDataset, seed: int, *metrics: str) -> Measured:
        computed.clear()
        return evaluate(Painter(seed), data_set, recipe(*metrics), CPU, cache=tmp_path)

    monkeypatch.setattr(evaluation, "features_of", counting)
    first = measure(heads(4, 3), 0, "fid", "kid")
    assert computed == [3, 3, 3]  # generated, test, train
    assert measure(heads(4, 3), 0, "fid").metrics["fid"] == first.metrics["fid"]
    assert computed == [3]  # generated
    other = measure(heads(4, 3), 1, "fid").metrics["fid"]
    assert computed == [3]
    assert other["value"] != first.metrics["fid"]["value"]
    assert other["floor"] == first.metrics["fid"]["floor"]
    measure(prepare(synthetic(train=4, test=3, size=32, seed=1), Data(size=32)), 0, "fid")
    assert computed == [3, 3, 3]  # another dataset


def test_all_numbers_are_independent_of_the_batch_size(
    with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe("fid", "kid", "ssim_global", "ssim", "lpips")
    wanted = evaluate(CopyReference(), heads(4, 4, 48), chosen, CPU, cache=tmp_path / "a")
    monkeypatch.setattr(evaluation, "BATCH", 3)
    monkeypatch.setattr(evaluation, "CHUNK", {"cpu": 3})
    got = evaluate(CopyReference(), heads(4, 4, 48), chosen, CPU, cache=tmp_path / "b")
    for name in chosen.evaluation.metrics:
        assert got.metrics[name]["value"] == pytest.approx(wanted.metrics[name]["value"], rel=1e-3), name
    for name in ("ssim_global", "ssim", "lpips"):
        assert got.scores[name].to_numpy() == pytest.approx(wanted.scores[name].to_numpy(), rel=1e-4), name


# What cannot be measured


def test_without_weights_fid_kid_and_lpips_are_null_with_a_reason_and_ssim_is_measured_all_the_same(
    without_weights: None,
) -> None:
    measured = evaluate(Painter(), heads(), recipe("fid", "ssim", "kid", "lpips"), CPU)
    assert list(measured.metrics) == ["fid", "ssim", "kid", "lpips"]
    for name, network, file in (
        ("fid", "inception", INCEPTION),
        ("kid", "inception", INCEPTION),
        ("lpips", "lpips-squeeze", SQUEEZENET),
    ):
        metric = measured.metrics[name]
        assert metric["value"] is None
        assert network in metric["reason"]
        assert file in metric["reason"]
        assert "ATTNBENCH_OFFLINE" in metric["reason"]
        assert f"attnbench weights --download {network}" in metric["reason"]
        assert metric["missing"] == network
    assert 0 < measured.metrics["ssim"]["value"] < 1
    assert list(measured.scores.columns) == ["sketch", "reference", "ssim"]


def test_a_layer_with_nan_weights_gives_null_and_says_why_instead_of_a_wrong_number(with_weights: Path, tmp_path: Path) -> None:
    measured = evaluate(Painter(), heads(train=2, test=2), recipe("fid", "kid", fid_dims=2048), CPU, cache=tmp_path)
    for metric in measured.metrics.values():
        assert metric["value"] is None
        assert f"features of width 2048 are not finite: '{INCEPTION}' is incomplete" in metric["reason"]
        assert "missing" not in metric  # the file is there
    assert not (tmp_path / "features").exists()
