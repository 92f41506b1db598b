"""XDoG: against the formula computed apart in float64, and what the paper's constants imply."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor

from attnbench.data.synthetic import draw
from attnbench.data.xdog import gaussian_blur, luma, xdog


def head(index: int, size: int = 48) -> Tensor:
    return torch.from_numpy(np.array(draw(0, index, size))).permute(2, 0, 1)[None].float() / 255


def flat(level: float, size: int = 24) -> Tensor:
    return torch.full((1, 3, size, size), level)


def sigmas(*values: float) -> Tensor:
    return torch.tensor(values)


def blur_by_the_formula(grey: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) float64; kernel width and border as OpenCV chooses them for float images."""
    width = round(8 * sigma + 1) | 1
    offset = np.arange(width) - width // 2
    kernel = np.exp(-(offset**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    return correlate1d(correlate1d(grey, kernel, axis=0, mode="mirror"), kernel, axis=1, mode="mirror")


def response_by_the_formula(rgb: Tensor, sigma: float, *, p: float = 19, k: float = 4.5) -> np.ndarray:
    """I S, (H, W) float64, of a (1, 3, H, W) image."""
    grey = np.tensordot([0.299, 0.587, 0.114], rgb[0].double().numpy(), axes=1)
    return grey * ((1 + p) * blur_by_the_formula(grey, sigma) - p * blur_by_the_formula(grey, k * sigma))


def test_luma_weighs_red_green_and_blue_by_bt601() -> None:
    primaries = torch.eye(3)[:, :, None, None]
    assert luma(primaries).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])


@pytest.mark.parametrize("sigma", [0.3, 0.4, 0.5, 1.35, 1.8, 2.25, 5.0])
@pytest.mark.parametrize("shape", [(21, 34), (5, 3)])
def test_the_blur_is_the_gaussian_that_opencv_computes(sigma: float, shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(0).random(shape)
    ours = gaussian_blur(torch.from_numpy(grey)[None, None].float(), sigmas(sigma))
    assert np.abs(ours[0, 0].numpy() - blur_by_the_formula(grey, sigma)).max() < 2e-6


@pytest.mark.parametrize(("sigma", "width"), [(0.3, 3), (0.4, 5), (0.5, 5), (1.35, 13), (1.8, 15), (2.25, 19)])
def test_the_kernel_is_as_wide_as_opencvs_even_beside_a_wider_one(sigma: float, width: int) -> None:
    impulse = torch.zeros(2, 1, 41, 41)
    impulse[:, :, 20, 20] = 1
    blurred = gaussian_blur(impulse, sigmas(sigma, 2.25))[0, 0]
    assert (blurred > 0).any(0).sum() == width
    assert (blurred > 0).any(1).sum() == width
    assert blurred.sum() == pytest.approx(1)


def test_each_image_of_a_batch_gets_its_own_sigma() -> None:
    images = torch.cat([head(0), head(1), head(2)])
    together = xdog(images, sigmas(0.3, 0.5, 0.4), phi=10)
    for row, sigma in enumerate((0.3, 0.5, 0.4)):
        assert torch.allclose(together[row], xdog(images[row : row + 1], sigmas(sigma), phi=10)[0], atol=1e-3)
    assert not torch.equal(together, xdog(images, sigmas(0.4, 0.4, 0.4), phi=10))


@pytest.mark.parametrize("sigma", [0.3, 0.4, 0.5])
@pytest.mark.parametrize("index", [0, 1])
def test_line_art_is_the_formulas_up_to_rounding_at_the_threshold(sigma: float, index: int) -> None:
    response = response_by_the_formula(head(index), sigma)
    clear = np.abs(response - 0.01) > 1e-5
    ours = xdog(head(index), sigmas(sigma))[0, 0].numpy()
    assert clear.mean() > 0.999
    assert np.array_equal(ours[clear], (response >= 0.01)[clear])
    assert 0.02 < (ours == 0).mean() < 0.6  # there are lines, and there is paper


def test_a_soft_threshold_gives_the_formulas_greys() -> None:
    response = response_by_the_formula(head(3), 0.7, p=5, k=1.6)
    wanted = np.where(response >= 0.4, 1, 1 + np.tanh(6 * (response - 0.4)))
    ours = xdog(head(3), sigmas(0.7), p=5, k=1.6, epsilon=0.4, phi=6)[0, 0].numpy()
    assert np.abs(ours - wanted).max() < 1e-4
    assert ((ours > 0.05) & (ours < 0.95)).mean() > 0.05


def test_without_the_difference_of_gaussians_it_is_a_threshold_on_the_blurred_image() -> None:
    response = response_by_the_formula(head(0), 0.5, p=0)
    clear = np.abs(response - 0.3) > 1e-5
    assert np.array_equal(xdog(head(0), sigmas(0.5), p=0, epsilon=0.3)[0, 0].numpy()[clear], (response >= 0.3)[clear])


@pytest.mark.parametrize("level", [0.0, 0.05, 0.0999])
def test_flat_grey_below_a_tenth_becomes_solid_black(level: float) -> None:
    assert (xdog(flat(level), sigmas(0.4)) == 0).all()


@pytest.mark.parametrize("level", [0.1001, 0.12, 0.5, 1.0])
def test_flat_grey_above_a_tenth_becomes_blank_paper(level: float) -> None:
    assert (xdog(flat(level), sigmas(0.4)) == 1).all()


@pytest.mark.parametrize("sigma", [0.3, 0.4, 0.5])
def test_at_the_papers_phi_line_art_is_black_or_white_and_nothing_between(sigma: float) -> None:
    for index in range(4):
        assert set(xdog(head(index), sigmas(sigma)).unique().tolist()) == {0.0, 1.0}


def test_a_dark_stroke_on_light_paper_is_drawn_where_it_is() -> None:
    paper = flat(0.9, 32)
    paper[..., 16] = 0.2
    drawn = xdog(paper, sigmas(0.3))[0, 0]
    assert (drawn[:, 16] == 0).all()
    assert (drawn[:, :13] == 1).all()
    assert (drawn[:, 20:] == 1).all()


def test_only_the_dark_side_of_an_edge_is_drawn() -> None:
    edge = flat(0.8, 32)
    edge[..., 16:] = 0.4
    drawn = xdog(edge, sigmas(0.4))[0, 0]
    assert (drawn[:, :16] == 1).all()
    assert (drawn[:, 16] == 0).all()
    assert (drawn[:, 22:] == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3)])
def test_images_smaller_than_the_kernel_are_drawn_too(shape: tuple[int, int]) -> None:
    drawn = xdog(torch.full((1, 3, *shape), 0.5), sigmas(0.5))
    assert drawn.shape == (1, 1, *shape)
    assert (drawn == 1).all()
