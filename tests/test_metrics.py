"""Metrics, each against an independent computation: the formula, another package, or a closed form."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pytest
import scipy.linalg
import skimage
import torch
from PIL import Image, ImageFilter
from runs import Python
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.kid import poly_mmd
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionC

from attnbench import weights
from attnbench.data.synthetic import draw
from attnbench.metrics.fid import frechet_distance
from attnbench.metrics.grey_levels import grey_levels
from attnbench.metrics.inception import InceptionFeatures, features_of, fold_batch_norms
from attnbench.metrics.kid import kernel_distance
from attnbench.metrics.lpips import PerceptualDistance
from attnbench.metrics.ssim import ssim
from attnbench.metrics.ssim_global import ssim_global

CPU = torch.device("cpu")


def heads(*indices: int, seed: int = 0, size: int = 48) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(draw(seed, i, size))).permute(2, 0, 1) for i in indices])


def astronaut() -> Image.Image:
    levels = skimage.color.rgb2gray(skimage.data.astronaut()) * 255
    return Image.fromarray(levels.round().astype(np.uint8)).resize((256, 256), Image.Resampling.BILINEAR)


def grey(picture: Image.Image | np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(picture, np.float64))[None, None]


def noisy(picture: Image.Image, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, np.shape(picture))
    return (np.asarray(picture) + noise).clip(0, 255).round()


def normal(count: int, dims: int, *, seed: int = 0, shift: float = 0) -> np.ndarray:
    """Correlated features of different scales."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dims)) @ rng.normal(size=(dims, dims)) / dims**0.5 + shift


# SSIM


def test_grey_levels_are_those_of_pillow_but_for_rounding() -> None:
    ours = grey_levels(heads(0, 1))
    wanted = np.stack([np.asarray(draw(0, i, 48).convert("L")) for i in (0, 1)])
    assert ours.shape == (2, 1, 48, 48)
    assert np.abs(ours[:, 0].numpy() - wanted).max() <= 1
    assert torch.equal(ours, ours.round())


@pytest.mark.parametrize("function", [ssim_global, ssim])
def test_equal_images_score_one(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    images = grey_levels(heads(0, 1, 2))
    assert function(images, images).tolist() == pytest.approx([1, 1, 1])
    blank = torch.full((1, 1, 16, 16), 93.0, dtype=torch.float64)
    assert function(blank, blank).tolist() == pytest.approx([1])


def test_global_ssim_of_an_inverted_photo_is_what_the_released_code_gives() -> None:
    photo = grey(astronaut())
    assert ssim_global(photo, 255 - photo).item() == pytest.approx(-0.96, abs=0.005)


def test_global_ssim_is_the_product_of_luminance_contrast_and_structure_over_the_whole_image() -> None:
    a, b = grey_levels(heads(0, 1, 2)), grey_levels(heads(3, 4, 5))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    c3 = c2 / 2
    for x, y, ours in zip(a.numpy(), b.numpy(), ssim_global(a, b), strict=True):
        covariance = np.cov(x.ravel(), y.ravel(), ddof=0)
        sx, sy, sxy = covariance[0, 0] ** 0.5, covariance[1, 1] ** 0.5, covariance[0, 1]
        luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
        contrast = (2 * sx * sy + c2) / (sx**2 + sy**2 + c2)
        structure = (sxy + c3) / (sx * sy + c3)
        assert ours.item() == pytest.approx(luminance * contrast * structure, abs=1e-12)


def test_windowed_ssim_is_scikit_images() -> None:
    a, b = grey_levels(heads(0, 1, 2)), grey_levels(heads(3, 4, 5))
    for row, ours in enumerate(ssim(a, b)):
        wanted = structural_similarity(
            a[row, 0].numpy(), b[row, 0].numpy(), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ours.item() == pytest.approx(wanted, abs=1e-6)


def test_global_ssim_hardly_sees_blur_and_noise_which_windowed_ssim_punishes() -> None:
    photo = astronaut()
    for damaged in (photo.filter(ImageFilter.GaussianBlur(3)), noisy(photo, 25)):
        assert ssim_global(grey(photo), grey(damaged)).item() == pytest.approx(0.945, abs=0.015)
        assert ssim(grey(photo), grey(damaged)).item() < 0.7


def test_windowed_ssim_of_an_image_as_large_as_the_window_is_the_formula_at_its_middle() -> None:
    a, b = grey_levels(heads(0, size=48))[..., 20:31, 20:31], grey_levels(heads(1, size=48))[..., 20:31, 20:31]
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    x, y = a[0, 0].numpy(), b[0, 0].numpy()
    mx, my = np.average(x, weights=weight), np.average(y, weights=weight)
    vx, vy = np.average((x - mx) ** 2, weights=weight), np.average((y - my) ** 2, weights=weight)
    vxy = np.average((x - mx) * (y - my), weights=weight)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    wanted = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(a, b).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("shape", [(48, 48), (33, 48), (11, 12)])
def test_windowed_ssim_is_torchmetrics_without_its_mirrored_borders(shape: tuple[int, int]) -> None:
    a, b = (grey_levels(heads(*range(i, i + 3)))[..., : shape[0], : shape[1]] for i in (0, 3))
    _, wanted = structural_similarity_index_measure(a, b, sigma=1.5, data_range=255.0, reduction="none", return_full_image=True)
    assert torch.allclose(ssim(a, b), wanted[..., 5:-5, 5:-5].mean((1, 2, 3)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", [ssim_global, ssim])
def test_ssim_is_symmetric_and_does_not_depend_on_the_batch(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = grey_levels(heads(0, 1, 2)), grey_levels(heads(3, 4, 5))
    together = function(a, b)
    assert together.shape == (3,)
    assert torch.allclose(together, function(b, a))
    assert torch.allclose(together[1:2], function(a[1:2], b[1:2]))


# Frechet distance


def test_the_frechet_distance_of_a_set_from_itself_is_zero() -> None:
    for count in (200, 12):
        features = normal(count, 24)
        assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-9)


def test_a_shifted_set_is_as_far_as_the_square_of_the_shift() -> None:
    features, shift = normal(50, 8), np.arange(8)
    assert frechet_distance(features, features + shift) == pytest.approx(np.sum(shift**2))


def test_a_scaled_set_is_as_far_as_the_trace_says() -> None:
    features = normal(50, 8)
    features -= features.mean(0)
    variance = features.var(0, ddof=1).sum()
    assert frechet_distance(features, 3 * features) == pytest.approx((3 - 1) ** 2 * variance)


def test_in_one_dimension_it_is_the_distance_of_means_and_of_deviations() -> None:
    a, b = normal(40, 1, seed=1), normal(30, 1, seed=2, shift=2)
    wanted = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(wanted)


def frechet_by_a_matrix_root(a: np.ndarray, b: np.ndarray) -> float:
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b).real
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariance_a + covariance_b - 2 * root))


@pytest.mark.parametrize(("count", "other"), [(300, 300), (300, 80), (41, 300)])
def test_with_more_images_than_dimensions_it_is_scipys(count: int, other: int) -> None:
    a, b = normal(count, 40, seed=1), normal(other, 40, seed=2, shift=0.3)
    assert frechet_distance(a, b) == pytest.approx(frechet_by_a_matrix_root(a, b), rel=1e-9)


def test_with_fewer_images_than_dimensions_it_is_scipys_within_the_accuracy_of_a_singular_root() -> None:
    a, b = normal(12, 40, seed=1), normal(15, 40, seed=2, shift=0.3)
    assert frechet_distance(a, b) == pytest.approx(frechet_by_a_matrix_root(a, b), rel=1e-3)


def test_it_is_symmetric_and_never_below_zero() -> None:
    a, b = normal(12, 40, seed=1), normal(50, 40, seed=2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, b) > 0


# KID


def test_kid_at_equal_numbers_is_torchmetrics() -> None:
    a, b = normal(30, 16, seed=1), normal(30, 16, seed=2, shift=0.5)
    wanted = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert kernel_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert kernel_distance(a, b) > 0.1


def test_kid_at_unequal_numbers_is_the_unbiased_estimate_pair_by_pair() -> None:
    a, b = normal(7, 5, seed=1), normal(11, 5, seed=2, shift=0.5)

    def mean_kernel(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([(x @ y / 5 + 1) ** 3 for x, y in pairs]))

    within = [mean_kernel([(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j]) for z in (a, b)]
    across = mean_kernel([(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across, rel=1e-9)


def test_kid_of_two_samples_of_one_distribution_is_zero_on_average() -> None:
    distances = [kernel_distance(*np.random.default_rng(seed).normal(size=(2, 20, 8))) for seed in range(60)]
    assert min(distances) < 0 < max(distances)
    assert np.mean(distances) == pytest.approx(0, abs=3 * np.std(distances) / 60**0.5)


# The Inception


def test_an_inception_with_folded_batch_norms_gives_the_same_features() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(BasicConv2d(3, 16, kernel_size=3, stride=2), InceptionA(16, 8), InceptionC(232, 16)).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.running_var):
                values.uniform_(0.5, 2)
            for values in (layer.bias.data, layer.running_mean):
                values.normal_(0, 0.3)
    images = torch.rand(2, 3, 35, 35)
    with torch.no_grad():
        wanted = network(images)
        fold_batch_norms(network)
        folded = network(images)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert (folded - wanted).abs().max() < 1e-5 * wanted.abs().max()


# With real weights


def test_fid_is_what_pytorch_fids_own_command_prints(torch_home: Path, tmp_path: Path, python: Python) -> None:
    """Two folders of PNGs, 768 dimensions and fewer images: the case in which its matrix root is singular."""
    if "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters:
        pytest.skip("pytorch-fid calls scipy.linalg.sqrtm with an option that this SciPy no longer has")
    images = {"a": heads(*range(3)), "b": heads(*range(4), seed=1)}
    for name, batch in images.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(batch):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{index}.png")
    options = ["--dims", "768", "--device", "cpu", "--num-workers", "0"]
    ran = python("-m", "pytorch_fid", tmp_path / "a", tmp_path / "b", *options)
    network = InceptionFeatures(768)
    ours = frechet_distance(*(features_of(batch.split(2), network, CPU) for batch in images.values()))
    assert ours == pytest.approx(float(ran.stdout.rpartition("FID:")[2]), rel=1e-4)


def test_features_are_pytorch_fids_and_so_is_the_distance(torch_home: Path, tmp_path: Path) -> None:
    """As above without its own matrix root, which newer SciPys break, and at 64 dimensions."""
    from pytorch_fid.fid_score import get_activations
    from pytorch_fid.inception import InceptionV3

    files = [tmp_path / f"{index:02d}.png" for index in range(12)]
    for index, file in enumerate(files):
        draw(0, index, 32).save(file)
    with weights.quiet_libraries():
        network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[64]])
    wanted = get_activations(files, network, batch_size=6, dims=64, num_workers=0)
    ours = features_of(heads(*range(12), size=32).split(5), InceptionFeatures(64), CPU)
    assert ours.dtype == np.float64
    assert np.abs(ours - wanted).max() < 1e-4 * np.abs(wanted).max()
    distance = frechet_by_a_matrix_root(wanted[:6], wanted[6:])
    assert frechet_distance(ours[:6], ours[6:]) == pytest.approx(distance, rel=0.01)


def test_features_of_768_channels_are_pytorch_fids_within_float32s_rounding(torch_home: Path) -> None:
    from pytorch_fid.inception import InceptionV3

    with weights.quiet_libraries():
        network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[768]]).eval()
    noise = torch.randint(0, 256, (1, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = torch.cat([noise, heads(0, 1)])
    wanted = network(images.float() / 255)[0].mean((2, 3))
    assert (InceptionFeatures(768)(images) - wanted).abs().max() < 1e-5 * wanted.max()


def test_features_do_not_depend_on_the_batch_size(torch_home: Path) -> None:
    images, network = heads(*range(5), size=32), InceptionFeatures(64)
    assert np.allclose(features_of(images.split(5), network, CPU), features_of(images.split(2), network, CPU), atol=1e-5)


def test_lpips_is_the_reference_implementations(torch_home: Path) -> None:
    with weights.quiet_libraries():
        reference = lpips.LPIPS(net="squeeze", verbose=False)
    a, b = heads(0, 1, 2, size=64), heads(3, 4, 5, size=64)
    with torch.no_grad():
        wanted = reference(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten()
    distance = PerceptualDistance("squeeze")
    ours = distance(a, b)
    assert ours.shape == (3,)
    assert torch.allclose(ours, wanted, atol=1e-6)
    assert ours.min() > 0.05
    assert distance(a, a).tolist() == [0, 0, 0]
