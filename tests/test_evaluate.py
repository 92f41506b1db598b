"""Evaluation: which pairs, what is generated, and what is measured or honestly left out.

Networks have made-up weights here, so that these tests run anywhere; test_metrics.py holds the metrics against real ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from attnbench import weights
from attnbench.config.recipe import Data, Evaluation, Warp
from attnbench.data.images import PreparedDataset, prepare, prepare_folder
from attnbench.data.layouts import folder, synthetic
from attnbench.data.synthetic import PARTS, draw, palette, part_map
from attnbench.data.warp import official_points, tps_offsets, warp
from attnbench.errors import Interrupted, NotMeasurable, UserError
from attnbench.method.precision import tf32
from attnbench.metrics import inception as inception_file
from attnbench.metrics import ssim_global as ssim_global_file
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.fid import frechet_distance
from attnbench.metrics.generate import PairSet, generate, to_bytes
from attnbench.metrics.grey_levels import grey_levels
from attnbench.metrics.inception import InceptionFeatures, features_of
from attnbench.metrics.kid import kernel_distance
from attnbench.metrics.lpips import PerceptualDistance
from attnbench.metrics.measure import Number, check_uses, measure, pictures_of
from attnbench.metrics.metric import Metric, Score, metrics_of, parse_metric
from attnbench.metrics.pictures import CHUNK, Pictures
from attnbench.metrics.protocol import Protocol, protocols_of
from attnbench.metrics.ssim import ssim
from attnbench.metrics.ssim_global import ssim_global

CPU = torch.device("cpu")
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"
COUNTS = range(2, 51)
DATA = Data(size=32)
FID, KID, LPIPS = "fid:dims=64", "kid:dims=64", "lpips:network=squeeze"


def asked(*metrics: str, **options: object) -> Evaluation:
    return Evaluation.model_validate(
        {"metrics": metrics or ("ssim_global",), "fid_dims": 64, "lpips_network": "squeeze", **options}
    )


def heads(train: int = 7, test: int = 6, size: int = 32) -> PreparedDataset:
    return prepare(synthetic(train=train, test=test, size=size), DATA)


def pairs_of(dataset: PreparedDataset, *pairs: tuple[int, int], **protocol: Any) -> PairSet:
    """The pairs of a protocol on the test images, or these pairs."""
    found = PairSet.of(dataset.test, Protocol(**protocol), DATA)
    return PairSet(dataset.test, list(pairs), found.protocol, DATA) if pairs else found


def pictured(
    dataset: PreparedDataset, generator: nn.Module | None = None, *, cache: Path | None = None, **protocol: Any
) -> Pictures:
    """What metrics are given; by default of a network that copies the reference."""
    pairs = pairs_of(dataset, **protocol)
    return pictures_of(generate(generator or CopyReference(), pairs, CPU), pairs, dataset, CPU, cache=cache)


def evaluate(
    generator: nn.Module, dataset: PreparedDataset, evaluation: Evaluation, *, batch: int = 16, cache: Path | None = None
) -> dict[str, Number]:
    """The numbers of a network, as a recipe asks for them: of its first protocol."""
    pairs = PairSet.of(dataset.test, protocols_of(evaluation)[0], DATA)
    generated = generate(generator, pairs, CPU, batch=batch)
    return measure(pictures_of(generated, pairs, dataset, CPU, cache=cache), metrics_of(evaluation))


def own(
    found: Callable[[Pictures], Any], key: str = "own", *, uses: Sequence[str] = ("wanted",), per_image: bool = True
) -> Metric:
    """A metric of another package, made of a function."""
    descriptor = Descriptor(name=key, title=key, lower_is_better=False, per_image=per_image, package="theirs")
    scorer: Any = SimpleNamespace(measure=found)
    return Metric(key, {}, scorer, descriptor, (), tuple(uses), ())


def brightness(pictures: Pictures) -> Tensor:
    return pictures.generated.float().mean((1, 2, 3))


class CopyReference(nn.Module):
    """Gives back the reference."""

    def forward(self, sketch: Tensor, reference: Tensor, shows: Tensor | None = None) -> Tensor:
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
            pairs = Protocol(pair_seed=seed).pairs(count)
            assert [sketch for sketch, _ in pairs] == list(range(count))
            assert sorted(reference for _, reference in pairs) == list(range(count))
            assert all(sketch != reference for sketch, reference in pairs)


def test_pairs_depend_on_the_number_of_images_and_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = Protocol().pairs(50)
    torch.manual_seed(1)
    (protocol,) = protocols_of(asked("ssim", format="jpeg75", fid_dims=768))
    assert first == protocol.pairs(50)
    assert len({tuple(Protocol(pair_seed=seed).pairs(50)) for seed in range(10)}) == 10


def test_every_other_image_is_as_likely_a_reference() -> None:
    references = [Protocol(pair_seed=seed).pairs(4)[0][1] for seed in range(300)]
    assert np.bincount(references, minlength=4)[0] == 0
    assert np.bincount(references, minlength=4)[1:].min() > 70


@pytest.mark.parametrize(("count", "used"), [(1000, 992), (500, 496), (16, 16), (33, 32)])
def test_official_pairs_are_whole_batches_of_sixteen_and_drop_the_rest(count: int, used: int) -> None:
    pairs = Protocol(pairing="official").pairs(count)
    assert len(pairs) == used
    assert len({sketch for sketch, _ in pairs}) == used


def test_official_pairs_shift_references_by_one_within_each_batch() -> None:
    pairs = Protocol(pairing="official").pairs(100)
    for start in range(0, 96, 16):
        sketches, references = zip(*pairs[start : start + 16], strict=True)
        assert references == (*sketches[1:], sketches[0])


def test_official_pairs_are_shuffled_by_the_seed() -> None:
    drawn = {tuple(Protocol(pairing="official", pair_seed=seed).pairs(64)) for seed in (0, 0, 1, 2)}
    assert len(drawn) == 3
    assert all([sketch for sketch, _ in pairs] != list(range(64)) for pairs in drawn)


def test_fewer_images_than_an_official_batch_make_one_batch() -> None:
    for count in range(2, 16):
        pairs = Protocol(pairing="official").pairs(count)
        assert len(pairs) == count
        assert all(sketch != reference for sketch, reference in pairs)


def test_a_limit_keeps_the_first_pairs_and_changes_none_of_them() -> None:
    for protocol in (Protocol(), Protocol(pairing="official"), Protocol(references="same"), Protocol(references="folder")):
        limited = protocol.model_copy(update={"limit": 5})
        assert limited.pairs(40, 3) == protocol.pairs(40, 3)[:5]
        assert protocol.model_copy(update={"limit": 100}).pairs(40, 3) == protocol.pairs(40, 3)


def test_references_of_a_folder_are_taken_in_turn_in_a_random_order() -> None:
    pairs = Protocol(references="folder", folder="theirs").pairs(7, 3)
    sketches, references = zip(*pairs, strict=True)
    assert sketches == tuple(range(7))
    assert sorted(references[:3]) == [0, 1, 2]
    assert references[3:] == references[:4]
    assert len({tuple(Protocol(references="folder", pair_seed=seed).pairs(7, 3)) for seed in range(20)}) == 6


# Generation


def test_bytes_are_rounded_and_cut_at_black_and_white() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(levels.float() / 127.5 - 1), levels)
    assert to_bytes(torch.tensor([-7.0, -1.0, 0.001, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


def test_each_sketch_is_coloured_with_its_own_reference_in_the_order_of_the_pairs() -> None:
    dataset = heads()
    pairs = pairs_of(dataset, (0, 4), (1, 2), (5, 0))
    assert torch.equal(generate(CopyReference(), pairs, CPU), dataset.test.images[[4, 2, 0]])
    assert torch.equal(pairs.reference_images(), dataset.test.images[[4, 2, 0]])
    assert torch.equal(pairs.wanted(), dataset.test.images[[0, 1, 5]])
    names = dataset.test.names
    assert pairs.names == [(names[0], names[4]), (names[1], names[2]), (names[5], names[0])]


def test_generation_is_in_eval_mode_and_leaves_the_mode_and_the_weights_as_they_were() -> None:
    pairs = pairs_of(heads(), (0, 1), (2, 3))
    wanted = generate(Painter().eval(), pairs, CPU)
    for training in (True, False):
        painter = Painter().train(training)
        before = {name: value.clone() for name, value in painter.state_dict().items()}
        assert torch.equal(generate(painter, pairs, CPU), wanted)
        assert painter.training == training
        assert all(torch.equal(value, before[name]) for name, value in painter.state_dict().items())


def test_a_network_that_fails_is_left_in_the_mode_it_was_in() -> None:
    class Failing(CopyReference):
        def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
            raise RuntimeError("no")

    failing = Failing().train()
    with pytest.raises(RuntimeError, match="no"):
        generate(failing, pairs_of(heads()), CPU)
    assert failing.training


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_generated_images_do_not_depend_on_the_batch_size(size: int) -> None:
    pairs = pairs_of(heads())
    wanted = generate(Painter(), pairs, CPU)
    generated = generate(Painter(), pairs, CPU, batch=size)
    assert (generated.int() - wanted.int()).abs().max() <= 1  # convolutions of other batches may round differently
    assert (generated != wanted).float().mean() < 1e-4


def test_progress_counts_pairs_up_to_the_last() -> None:
    seen: list[tuple[int, int]] = []
    generate(CopyReference(), pairs_of(heads()), CPU, batch=4, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(4, 6), (6, 6)]


class OutOfMemoryAbove(CopyReference):
    """Colours so many pairs at once, and no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.coloured: list[int] = []

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        if len(sketch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.coloured.append(len(sketch))
        return super().forward(sketch, reference)


@pytest.mark.parametrize(("batch", "batches"), [(16, [16, 8, 4, 2]), (7, [7, 3, 1]), (2, [2])])
def test_where_memory_does_not_suffice_batches_are_halved_and_the_pictures_are_the_same(
    batch: int, batches: list[int], warned: Callable[[], list[str]]
) -> None:
    pairs, tight = pairs_of(heads()), OutOfMemoryAbove(2)
    wanted = generate(CopyReference(), pairs, CPU)
    tight.train()
    assert torch.equal(generate(tight, pairs, CPU, batch=batch), wanted)
    assert tight.coloured == [batches[-1]] * (len(pairs) // batches[-1])
    assert warned() == [
        f"the memory of cpu does not suffice to colour {more} pairs at once: going on with {fewer}"
        for more, fewer in pairwise(batches)
    ]
    assert tight.training


def test_memory_that_does_not_suffice_for_one_pair_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        generate(OutOfMemoryAbove(0), pairs_of(heads()), CPU, batch=4)


def test_evaluation_is_in_full_float32_whatever_training_left_and_leaves_the_switches_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    seen: list[bool] = []

    class Watching(CopyReference):
        def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
            seen.extend(switch.allow_tf32 for switch in switches)
            return super().forward(sketch, reference)

    def watching(a: Tensor, b: Tensor) -> Tensor:
        seen.extend(switch.allow_tf32 for switch in switches)
        return ssim_global(a, b)

    monkeypatch.setattr(ssim_global_file, "ssim_global", watching)
    for allowed in (True, False):
        with tf32(allowed, products=allowed):
            evaluate(Watching(), heads(), asked("ssim_global"))
            assert [switch.allow_tf32 for switch in switches] == [allowed, allowed]
    assert len(seen) == 2 * (2 + 4)  # six images: one batch for the generator, two chunks for the metric
    assert not any(seen)


def test_jpeg75_is_what_a_jpeg_file_of_quality_75_gives_back() -> None:
    dataset = heads()
    plain = generate(Painter(), pairs_of(dataset, (0, 1), (2, 3)), CPU)
    squeezed = generate(Painter(), pairs_of(dataset, (0, 1), (2, 3), format="jpeg75"), CPU)
    for before, after in zip(plain, squeezed, strict=True):
        file = io.BytesIO()
        Image.fromarray(before.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
        assert np.array_equal(after.permute(1, 2, 0), np.asarray(Image.open(file)))
        assert not torch.equal(before, after)


# References


def warped_originals(dataset: PreparedDataset, seed: int) -> Tensor:
    """Each test image under its own warp, one at a time."""
    found = []
    for index, image in enumerate(dataset.test.images):
        sources, destinations = official_points(np.random.default_rng([4, seed, index]))
        offsets = tps_offsets(torch.from_numpy(sources)[None], torch.from_numpy(destinations)[None], 32, 32)
        found.append(to_bytes(warp(image[None].float() / 255, offsets) * 2 - 1))
    return torch.cat(found)


def test_a_sketch_s_own_reference_is_its_warped_original_whatever_the_batch() -> None:
    dataset = heads()
    pairs = pairs_of(dataset, references="same")
    assert pairs.pairs == [(index, index) for index in range(6)]
    wanted = warped_originals(dataset, 0)
    assert torch.equal(pairs.reference_images(), wanted)
    assert all((wanted[i] != dataset.test.images[i]).any() for i in range(6))
    for size in (1, 4):
        assert torch.equal(torch.cat([to_bytes(batch.reference) for batch in pairs.batches(size)]), wanted)
        assert torch.equal(generate(CopyReference(), pairs, CPU, batch=size), wanted)
    shuffled = pairs_of(dataset, (4, 4), (1, 1), references="same")
    assert torch.equal(shuffled.reference_images(), wanted[[4, 1]])


def test_own_references_depend_on_the_seed_and_numbers_on_the_references() -> None:
    dataset = heads()
    first, second = (pairs_of(dataset, references="same", pair_seed=seed).reference_images() for seed in (0, 1))
    assert torch.equal(second, warped_originals(dataset, 1))
    assert all((first[i] != second[i]).any() for i in range(6))
    protocols = ({"references": "same"}, {"references": "same", "pair_seed": 1}, {"references": "cross"})
    numbers = [measure(pictured(dataset, **protocol), metrics_of(asked()))["ssim_global"].value for protocol in protocols]
    assert len(set(numbers)) == 3


def test_without_a_warp_the_own_reference_is_the_original_and_a_copy_of_it_perfect() -> None:
    dataset = heads()
    pairs = PairSet.of(dataset.test, Protocol(references="same"), Data(size=32, warp=Warp(kind="none")))
    pictures = pictures_of(generate(CopyReference(), pairs, CPU), pairs, dataset, CPU)
    numbers = measure(pictures, metrics_of(asked("ssim", "ssim_global")))
    assert [number.value for number in numbers.values()] == pytest.approx([1, 1])


def test_a_recipe_that_asks_for_both_kinds_of_reference_has_two_protocols_and_pairing_is_of_one() -> None:
    cross, same = protocols_of(asked(references=["cross", "same"], pairing="official", pair_seed=3, limit=2, format="jpeg75"))
    shared: dict[str, Any] = {"pair_seed": 3, "limit": 2, "format": "jpeg75"}
    assert cross == Protocol(references="cross", pairing="official", **shared)
    assert same == Protocol(references="same", **shared)


def test_references_from_elsewhere_are_copied_in_turn_and_nothing_is_compared_with_originals(
    with_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    for index in range(2):
        draw(9, index, 48).save(tmp_path / "theirs" / f"{index}.png")
    dataset = heads()
    references, content = prepare_folder(tmp_path / "theirs", DATA)
    protocol = Protocol(references="folder", folder="theirs", folder_digest=content)
    pairs = PairSet.of(dataset.test, protocol, DATA, references)
    assert {name for _, name in pairs.names} == {"0.png", "1.png"}
    pictures = pictures_of(generate(CopyReference(), pairs, CPU), pairs, dataset, CPU)
    assert torch.equal(pictures.generated, references.images[[reference for _, reference in pairs.pairs]])
    metrics = [
        *metrics_of(asked("ssim", "fid", "lpips")),
        own(lambda pictures: pictures.answers.float().mean((1, 2, 3)), "answers", uses=("answers",)),
        own(lambda pictures: (pictures.generated == pictures.reference).float().mean((1, 2, 3)), "copy", uses=("reference",)),
        own(lambda pictures: pictures.sketch.float().mean((1, 2, 3)), "paper", uses=("sketch", "parts")),
    ]
    numbers = measure(pictures, metrics)
    for key in ("ssim", FID, LPIPS, "answers"):
        assert numbers[key].value is None
        assert not numbers[key].failed
        assert str(numbers[key].reason).startswith("the references come from elsewhere, so ")
    assert numbers["copy"].value == 1
    assert numbers["paper"].value == pytest.approx(pairs.sketches().float().mean())


def test_other_pictures_in_the_folder_of_references_are_another_protocol_and_its_name_is_not(tmp_path: Path) -> None:
    protocols = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        draw(seed, 0, 32).save(tmp_path / name / "0.png")
        _, content = prepare_folder(tmp_path / name, DATA)
        protocols.append(Protocol(references="folder", folder=name, folder_digest=content))
    a, b, c = (protocol.values for protocol in protocols)
    assert a == b != c
    for name, protocol in zip("abc", protocols, strict=True):
        assert protocol.label.startswith(f"references {name}")


def test_a_folder_of_references_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder '.*nowhere' of references"):
        prepare_folder(tmp_path / "nowhere", DATA)
    with pytest.raises(UserError, match="no images in"):
        prepare_folder(tmp_path, DATA)
    (tmp_path / "broken.png").write_text("not an image")
    with pytest.raises(UserError, match=r"broken\.png' cannot be decoded"):
        prepare_folder(tmp_path, DATA)


# Scores of images


def test_a_score_compares_the_generated_image_with_the_sketch_s_own_colours_not_with_the_reference() -> None:
    data_set = heads()
    pictures = pictured(data_set)
    numbers = measure(pictures, metrics_of(asked("ssim_global", "ssim")))
    assert list(numbers) == ["ssim_global", "ssim"]
    images = dict(zip(data_set.test.names, grey_levels(data_set.test.images), strict=True))
    for row, (sketch, reference) in enumerate(pictures.names):
        assert sketch != reference
        a, b = images[reference][None], images[sketch][None]
        assert scores(numbers["ssim_global"])[row] == pytest.approx(ssim_global(a, b).item())
        assert scores(numbers["ssim"])[row] == pytest.approx(ssim(a, b).item())


def test_a_metric_is_the_mean_of_its_scores_and_says_of_how_many() -> None:
    numbers = evaluate(Painter(), heads(), asked("ssim", "ssim_global"))
    assert list(numbers) == ["ssim", "ssim_global"]
    for number in numbers.values():
        assert number.value == pytest.approx(scores(number).mean())
        assert (number.details, number.reason, number.failed, number.weights) == ({"n": 6}, None, False, {})


def test_official_pairing_scores_only_the_images_that_it_draws() -> None:
    number = evaluate(CopyReference(), heads(test=18), asked(pairing="official"))["ssim_global"]
    assert len(scores(number)) == number.details["n"] == 16


def test_a_limit_scores_the_first_pairs_as_without_it_and_keeps_all_real_images(with_weights: Path) -> None:
    whole, part = (evaluate(Painter(), heads(), asked("ssim", "fid", limit=limit)) for limit in (None, 3))
    assert scores(part["ssim"]) == pytest.approx(scores(whole["ssim"])[:3], rel=1e-6)
    assert part["ssim"].details == {"n": 3}
    assert {name: part[FID].details[name] for name in ("n", "n_real", "n_floor")} == {"n": 3, "n_real": 6, "n_floor": 3}


def test_lpips_scores_name_the_network_and_its_weights(with_weights: Path) -> None:
    data_set = heads()
    number = evaluate(CopyReference(), data_set, asked("lpips"))[LPIPS]
    pairs = torch.tensor(Protocol().pairs(6))
    wanted = PerceptualDistance("squeeze")(data_set.test.images[pairs[:, 1]], data_set.test.images[pairs[:, 0]])
    assert scores(number) == pytest.approx(wanted.numpy(), rel=1e-4)
    assert (number.descriptor.options, number.descriptor.title) == ({"network": "squeeze"}, "LPIPS-squeeze")
    assert number.details == {"n": 6}
    assert number.weights == {"lpips-squeeze": weights.file_digest(with_weights / "hub" / "checkpoints" / SQUEEZENET)}


# Distances of sets


def test_reproducing_the_test_set_has_fid_zero_and_a_floor_of_as_many_training_images(with_weights: Path) -> None:
    data_set = heads()
    numbers = evaluate(CopyReference(), data_set, asked("kid", "fid"))
    network = InceptionFeatures(64)
    test, train = (features_of([images], network, CPU) for images in (data_set.test.images, data_set.train.images))
    drawn = np.random.default_rng(0).permutation(7)[:6]  # which training images, the pairs' seed says
    fid, kid = numbers[FID], numbers[KID]
    assert fid.value == pytest.approx(0, abs=1e-6 * test.var(0).sum())
    assert kid.value == pytest.approx(kernel_distance(test, test), rel=1e-4)
    assert fid.details["floor"] == pytest.approx(frechet_distance(train[drawn], test), rel=1e-4)
    assert kid.details["floor"] == pytest.approx(kernel_distance(train[drawn], test), rel=1e-4)
    assert {name: fid.details[name] for name in ("n", "n_real", "n_floor")} == {"n": 6, "n_real": 6, "n_floor": 6}
    assert fid.descriptor.options == {"dims": 64, "real_size": "native"}
    assert fid.weights == {"inception": weights.file_digest(with_weights / "hub" / "checkpoints" / INCEPTION)}
    assert list(numbers) == [KID, FID]


def test_without_the_training_images_of_the_test_images_there_is_no_floor(with_weights: Path) -> None:
    dataset = heads()
    pairs = pairs_of(dataset)
    generated = generate(Painter(), pairs, CPU)
    with_floor, without = (
        measure(pictures_of(generated, pairs, dataset, CPU, has_train=has), metrics_of(asked("fid")))[FID]
        for has in (True, False)
    )
    assert without.value == with_floor.value
    assert without.details == {"n": 6, "n_real": 6}
    assert set(with_floor.details) == {"n", "n_real", "floor", "n_floor"}


def test_real_images_enter_at_their_native_size_unless_the_target_size_is_asked_for(with_weights: Path) -> None:
    data_set = heads(4, 4, size=64)
    native = evaluate(CopyReference(), data_set, asked("fid"))[FID]
    (target,) = evaluate(CopyReference(), data_set, asked("fid", real_size="target")).values()
    pixels = np.stack([np.array(picture.open()) for picture in data_set.test_pictures]).transpose(0, 3, 1, 2)
    network = InceptionFeatures(64)
    sharp = features_of([torch.from_numpy(pixels)], network, CPU)
    soft = features_of([data_set.test.images], network, CPU)
    assert native.value == pytest.approx(frechet_distance(soft, sharp), rel=1e-3)
    assert target.value < 1e-3 * native.value  # type: ignore[operator]
    assert [number.descriptor.options["real_size"] for number in (native, target)] == ["native", "target"]
    assert "target size" in target.descriptor.title


def test_features_of_real_images_are_computed_once_a_data_set_and_then_kept(
    with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counting(batches: Iterable[Tensor], network: nn.Module, device: torch.device) -> np.ndarray:
        features = features_of(batches, network, device)
        computed.append(len(features))
        return features

    def numbers(data_set: PreparedDataset, seed: int, *metrics: str) -> dict[str, Number]:
        computed.clear()
        return evaluate(Painter(seed), data_set, asked(*metrics), cache=tmp_path)

    monkeypatch.setattr(inception_file, "features_of", counting)
    first = numbers(heads(4, 3), 0, "fid", "kid")
    assert computed == [3, 3, 3]  # generated, test, train
    again = numbers(heads(4, 3), 0, "fid")[FID]
    assert (again.value, again.details) == (first[FID].value, first[FID].details)
    assert computed == [3]  # generated
    other = numbers(heads(4, 3), 1, "fid")[FID]
    assert computed == [3]
    assert other.value != first[FID].value
    assert other.details["floor"] == first[FID].details["floor"]
    numbers(prepare(synthetic(train=4, test=3, size=32, seed=1), DATA), 0, "fid")
    assert computed == [3, 3, 3]  # another dataset


def test_all_numbers_are_independent_of_the_batch_size(
    with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = asked("fid", "kid", "ssim_global", "ssim", "lpips")
    wanted = evaluate(CopyReference(), heads(4, 4, 48), chosen, cache=tmp_path / "a")
    monkeypatch.setitem(CHUNK, "cpu", 3)
    got = evaluate(CopyReference(), heads(4, 4, 48), chosen, batch=3, cache=tmp_path / "b")
    assert list(got) == [FID, KID, "ssim_global", "ssim", LPIPS]
    for name, number in got.items():
        assert number.value == pytest.approx(wanted[name].value, rel=1e-3), name
    for name in ("ssim_global", "ssim", LPIPS):
        assert scores(got[name]) == pytest.approx(scores(wanted[name]), rel=1e-4), name


def test_numbers_of_a_network_are_the_same_for_evaluation_batches_of_1_7_and_16(with_weights: Path) -> None:
    dataset, chosen = heads(test=17), asked("fid", "kid", "ssim_global", "ssim", "lpips")
    pairs = pairs_of(dataset)
    pictures = {size: generate(Painter(), pairs, CPU, batch=size) for size in (1, 7, 16)}
    numbers = {size: evaluate(Painter(), dataset, chosen, batch=size) for size in pictures}
    for size in (1, 7):
        difference = (pictures[size].int() - pictures[16].int()).abs()
        assert difference.max() <= 1  # a convolution of another batch may round differently, on other machines
        assert (difference > 0).float().mean() < 1e-4
        for name, number in numbers[size].items():
            assert number.value == pytest.approx(numbers[16][name].value, rel=1e-6, abs=1e-6), name


# Metrics of others


def scores(number: Number) -> np.ndarray:
    assert number.scores is not None
    return number.scores


def test_a_metric_of_another_package_gets_scores_details_and_a_mean() -> None:
    pictures = pictured(heads())
    metrics = [
        own(brightness),
        own(lambda pictures: Score(brightness(pictures).mean(), {"brightest": 255}), "set", per_image=False),
    ]
    each, whole = measure(pictures, metrics).values()
    assert scores(each) == pytest.approx(pictures.generated.float().mean((1, 2, 3)).numpy())
    assert each.value == pytest.approx(scores(each).mean())
    assert whole.value == pytest.approx(each.value)
    assert (whole.details, whole.scores) == ({"n": 6, "brightest": 255}, None)


def broken(pictures: Pictures) -> Tensor:
    raise ValueError("a\nshape of\n  its own")


@pytest.mark.parametrize(
    ("found", "per_image", "reason"),
    [
        (broken, True, "it failed: ValueError: a shape of its own"),
        (lambda pictures: brightness(pictures)[:4], True, r"it gave numbers of shape \(4,\), not 6 scores"),
        (lambda pictures: 3.0, True, r"it gave numbers of shape \(\), not 6 scores, one for each picture"),
        (brightness, False, r"it gave numbers of shape \(6,\), not one number"),
        (lambda pictures: None, True, "it gave NoneType with values of type object, not numbers"),
        (lambda pictures: "0.5", False, "it gave str with values of type <U3, not numbers"),
        (lambda pictures: True, False, "it gave bool with values of type bool, not numbers"),
        (lambda pictures: brightness(pictures) * 1j, True, "with values of type complex"),
        (
            lambda pictures: brightness(pictures) / torch.tensor([0, 1, 1, 1, 0, 1]),
            True,
            "2 of 6 scores are not finite numbers",
        ),
        (lambda pictures: float("nan"), False, "it is not a finite number"),
        (lambda pictures: Score(float("inf"), {"floor": 1}), False, "it is not a finite number"),
    ],
)
def test_a_metric_that_fails_or_gives_no_numbers_is_null_with_the_reason_and_the_others_stand(
    found: Callable[[Pictures], Any], per_image: bool, reason: str
) -> None:
    theirs = own(found, per_image=per_image)
    numbers = measure(pictured(heads()), [parse_metric("ssim"), theirs, parse_metric("ssim_global")])
    assert list(numbers) == ["ssim", "own", "ssim_global"]
    assert numbers["own"].value is None
    assert numbers["own"].failed
    assert numbers["own"].reason
    assert "\n" not in numbers["own"].reason
    assert re.search(reason, numbers["own"].reason)
    alone = measure(pictured(heads()), [parse_metric("ssim"), parse_metric("ssim_global")])
    assert [numbers[key].value for key in alone] == [number.value for number in alone.values()]


def test_a_metric_that_says_it_cannot_measure_has_not_failed() -> None:
    def grey_only(pictures: Pictures) -> Tensor:
        raise NotMeasurable("the pictures have colours")

    (number,) = measure(pictured(heads()), [own(grey_only)]).values()
    assert (number.value, number.reason, number.failed) == (None, "the pictures have colours", False)


def test_a_metric_for_which_memory_does_not_suffice_is_one_that_failed() -> None:
    def large(pictures: Pictures) -> Tensor:
        raise torch.OutOfMemoryError()

    numbers = measure(pictured(heads()), [own(large), parse_metric("ssim")])
    assert (numbers["own"].failed, numbers["own"].reason) == (True, "it failed: the memory of cpu does not suffice")
    assert numbers["ssim"].value is not None


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"value": 1}, "its details have the names value, which every number has"),
        ({"n": 1, "source": "x"}, "its details have the names n, source"),
        ({"what": object()}, "its details are no plain values"),
        ({"what": float("nan")}, "its details are no plain values"),
    ],
)
def test_details_that_no_record_can_hold_are_the_metrics_own_fault(details: dict[str, Any], reason: str) -> None:
    numbers = measure(pictured(heads()), [own(lambda pictures: Score(np.zeros(len(pictures)), details)), parse_metric("ssim")])
    assert reason in str(numbers["own"].reason)
    assert numbers["ssim"].value is not None


def test_numbers_of_numpy_and_torch_are_plain_details() -> None:
    details = {"count": np.int64(3), "share": torch.tensor(0.5)}
    (number,) = measure(pictured(heads()), [own(lambda pictures: Score(np.zeros(len(pictures)), details))]).values()
    assert number.details == {"n": number.details["n"], "count": 3, "share": 0.5}


@pytest.mark.parametrize("error", [Interrupted(3), KeyboardInterrupt()])
def test_an_interruption_is_no_fault_of_a_metric(error: BaseException) -> None:
    def stopped(pictures: Pictures) -> Tensor:
        raise error

    with pytest.raises(type(error)):
        measure(pictured(heads()), [own(stopped)])


def test_what_two_metrics_need_is_made_once() -> None:
    made = []

    def edges(pictures: Pictures) -> Tensor:
        return pictures.once("edges", lambda: made.append(1) or brightness(pictures))  # type: ignore[func-returns-value]

    numbers = measure(pictured(heads()), [own(edges, "a"), own(lambda pictures: edges(pictures) / 2, "b")])
    assert len(made) == 1
    assert numbers["a"].value == pytest.approx(2 * numbers["b"].value)  # type: ignore[operator]


def test_pictures_come_in_the_order_of_the_pairs_with_what_belongs_to_them() -> None:
    dataset = heads()
    pictures = pictured(dataset)
    sketches, references = (list(column) for column in zip(*Protocol().pairs(6), strict=True))
    assert len(pictures) == 6
    assert torch.equal(pictures.wanted, dataset.test.images[sketches])
    assert torch.equal(pictures.reference, dataset.test.images[references])
    assert dataset.test.sketches is not None
    assert torch.equal(pictures.sketch, dataset.test.sketches[sketches])
    batches = [batch for (batch,) in pictures.batches(pictures.generated)]
    assert [len(batch) for batch in batches] == [4, 2]
    assert torch.equal(torch.cat(batches), pictures.generated)


# Right answers


def test_the_right_answer_is_the_sketch_s_head_in_the_reference_s_palette() -> None:
    pictures = pictured(heads())
    right = own(lambda pictures: (pictures.generated == pictures.answers).float().mean((1, 2, 3)), uses=("answers",))
    for answer, (sketch, reference) in zip(pictures.answers, Protocol().pairs(6), strict=True):
        drawn = draw(0, sketch, 32, colors=palette(0, reference))
        assert np.array_equal(answer.permute(1, 2, 0), np.asarray(drawn))
    (copied,) = measure(pictures, [right]).values()
    assert copied.value is not None
    assert copied.value < 0.9
    perfect = Pictures(pictures.answers, pictures.names, CPU, pictures.available, pictures.lacking, pictures.part_names)
    (found,) = measure(perfect, [right]).values()
    assert found.value == 1


def test_with_its_own_palette_a_head_s_right_answer_is_the_original() -> None:
    pictures = pictured(heads(), references="same")
    assert torch.equal(pictures.answers, pictures.wanted)


@pytest.mark.parametrize("size", [32, 64, 48])
def test_parts_say_what_each_pixel_shows_at_the_pictures_size(size: int) -> None:
    pictures = pictured(heads(size=size))
    assert pictures.part_names == PARTS
    assert pictures.parts.shape == (6, 32, 32)
    middle = ((np.arange(32) + 0.5) * size / 32).astype(int)
    for parts, (sketch, _) in zip(pictures.parts, Protocol().pairs(6), strict=True):
        assert np.array_equal(parts, part_map(0, sketch, size)[np.ix_(middle, middle)])


def test_a_part_of_a_right_answer_has_the_colour_that_the_palette_says() -> None:
    pictures = pictured(heads(size=64))
    for row, (_, reference) in enumerate(Protocol().pairs(6)):
        background = pictures.answers[row][:, pictures.parts[row] == PARTS.index("background")].float()
        wanted = torch.tensor(palette(0, reference).background).float()
        assert ((background - wanted[:, None]).abs() < 3).all(0).float().mean() > 0.3  # the others are a motif, or touch lines


def test_where_the_dataset_knows_no_answers_their_metrics_say_so(folder_of_heads: Callable[..., Path]) -> None:
    dataset = prepare(folder("mine", folder_of_heads(train=4, test=3)), DATA)
    metrics = [own(brightness, name, uses=(name,)) for name in ("answers", "parts", "wanted")]
    numbers = measure(pictured(dataset), metrics)
    assert numbers["answers"].reason == "dataset 'mine' has no right answers"
    assert numbers["parts"].reason == "dataset 'mine' has no maps of parts"
    assert (numbers["answers"].value, numbers["answers"].failed) == (None, False)
    assert numbers["wanted"].value is not None
    # One that names too little in `uses` finds out when it asks.
    (late,) = measure(pictured(dataset), [own(lambda pictures: pictures.answers)]).values()
    assert (late.reason, late.failed) == ("dataset 'mine' has no right answers", False)


def test_a_metric_that_no_dataset_can_serve_is_refused_before_anything_runs(folder_of_heads: Callable[..., Path]) -> None:
    mine, cartoons = folder("mine", folder_of_heads(train=4, test=3)), synthetic(train=4, test=2, size=32)
    needs_answers = own(brightness, uses=("answers",))
    check_uses(needs_answers, [mine, cartoons], [Protocol()])
    check_uses(own(brightness), [mine], [Protocol()])
    with pytest.raises(UserError, match=r"metric 'own' needs right answers, which no dataset here has \(mine\)") as error:
        check_uses(needs_answers, [mine], [Protocol()])
    assert "\n" not in str(error.value)


HEAD = np.zeros((32, 32), np.uint8)


def third_partys(**given: Any) -> PreparedDataset:
    """A dataset of heads, whose part maps and right answers are these."""
    functions = {name: (lambda *_, value=value: value) for name, value in given.items() if name in ("parts", "answer")}
    return replace(heads(), **{"name": "mine", "part_names": ("paper", "hair"), **given, **functions})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parts": HEAD + 2}, "has the numbers 2 to 2: expected the indices of its `part_names`, 0 to 1"),
        ({"parts": HEAD.astype(int) - 1}, "has the numbers -1 to -1: expected the indices"),
        ({"parts": HEAD, "part_names": ()}, "expected `part_names`, of which the dataset has none"),
        ({"parts": np.zeros((32, 32, 3), np.uint8)}, "has shape (32, 32, 3) and type uint8: expected (H, W) whole numbers"),
        ({"parts": HEAD.astype(float)}, "has shape (32, 32) and type float64: expected (H, W) whole numbers"),
        ({"parts": None}, "has shape () and type object: expected (H, W) whole numbers"),
        ({"parts": HEAD[:20]}, "is 32 x 20: expected the picture's shape, 32 x 32, or a square"),
        ({"answer": HEAD}, "is a ndarray: expected a Pillow image"),
        ({"answer": Image.new("RGB", (20, 32))}, "is 20 x 32: expected the picture's shape, 32 x 32, or a square"),
    ],
)
def test_parts_and_answers_that_cannot_be_right_fail_with_dataset_and_picture(given: dict[str, Any], told: str) -> None:
    uses = "answers" if "answer" in given else "parts"
    (number,) = measure(pictured(third_partys(**given)), [own(lambda pictures: getattr(pictures, uses), uses=(uses,))]).values()
    what = "right answer to" if "answer" in given else "part map of"
    assert str(number.reason).startswith(f"it failed: ValueError: dataset 'mine': the {what} '00000")
    assert told in str(number.reason)
    assert number.failed


def test_two_parts_of_one_name_are_refused() -> None:
    mine = third_partys(parts=HEAD, part_names=("hair", "paper", "hair"))
    (number,) = measure(pictured(mine), [own(lambda pictures: pictures.parts, uses=("parts",))]).values()
    assert "dataset 'mine': `part_names` has 'hair' twice" in str(number.reason)


@pytest.mark.parametrize("given", [HEAD + 1, Image.new("L", (64, 64), 1), np.ones((16, 16), np.int64), np.ones((8, 8), bool)])
def test_part_maps_of_any_size_and_kind_of_whole_numbers_will_do(given: object) -> None:
    parts = pictured(third_partys(parts=given)).parts
    assert (parts.shape, parts.dtype, parts.unique().tolist()) == ((6, 32, 32), torch.uint8, [1])


def test_part_maps_and_answers_of_oblong_pictures_are_resized_as_these_are(folder_of_heads: Callable[..., Path]) -> None:
    path = folder_of_heads(train=4, test=3)
    for file in path.rglob("*.png"):
        Image.open(file).resize((48, 30)).save(file)
    halves = np.repeat([[0, 1]], 16, 1).repeat(20, 0)  # 20 high, 32 wide, as the pictures are
    plain = prepare(folder("mine", path), DATA)
    mine = replace(plain, part_names=("left", "right"), parts=lambda _: halves, answer=lambda sketch, _: sketch.open())
    pictures = pictured(mine)
    assert torch.equal(pictures.parts[0], (torch.arange(32) >= 16).to(torch.uint8).expand(32, 32))
    assert torch.equal(pictures.answers, pictures.wanted)
    with pytest.raises(ValueError, match="is 28 x 20: expected the picture's shape, 48 x 30"):
        _ = pictured(replace(mine, parts=lambda _: halves[:, 2:-2])).parts


# What cannot be measured


def test_without_weights_fid_kid_and_lpips_are_null_with_a_reason_and_ssim_is_measured_all_the_same(
    without_weights: None,
) -> None:
    numbers = evaluate(Painter(), heads(), asked("fid", "ssim", "kid", "lpips"))
    assert list(numbers) == [FID, "ssim", KID, LPIPS]
    for name, network, file in (
        (FID, "inception", INCEPTION),
        (KID, "inception", INCEPTION),
        (LPIPS, "lpips-squeeze", SQUEEZENET),
    ):
        number = numbers[name]
        assert number.value is None
        assert number.reason
        assert network in number.reason
        assert file in number.reason
        assert "ATTNBENCH_OFFLINE" in number.reason
        assert f"attnbench weights --download {network}" in number.reason
        assert (number.missing, number.failed, number.scores) == (network, False, None)
    value = numbers["ssim"].value
    assert value is not None
    assert 0 < value < 1
    assert [key for key, number in numbers.items() if number.scores is not None] == ["ssim"]


def test_a_layer_with_nan_weights_gives_null_and_says_why_instead_of_a_wrong_number(with_weights: Path, tmp_path: Path) -> None:
    numbers = evaluate(Painter(), heads(train=2, test=2), asked("fid", "kid", fid_dims=2048), cache=tmp_path)
    assert list(numbers) == ["fid", "kid"]
    for number in numbers.values():
        assert number.value is None
        assert number.reason
        assert f"features of width 2048 are not finite: '{INCEPTION}' is incomplete" in number.reason
        assert number.missing is None  # the file is there
        assert not number.failed
        assert list(number.weights) == ["inception"]
    assert not (tmp_path / "features").exists()
