"""The thin-plate spline: it goes through its points, keeps affine maps, and samples as the released code does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attnbench.data.synthetic import draw
from attnbench.data.warp import CORNERS, grid_points, official_points, tps_offsets, warp

DRAWS = 400  # as many as those of the measurement


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def offsets(points: tuple[np.ndarray, np.ndarray], height: int, width: int) -> Tensor:
    sources, destinations = points
    return tps_offsets(torch.from_numpy(sources)[None], torch.from_numpy(destinations)[None], height, width)


def head(size: int = 32) -> Tensor:
    return torch.from_numpy(np.array(draw(0, 0, size))).permute(2, 0, 1)[None].float() / 255


def pixel_offsets(dx: float, dy: float, height: int, width: int) -> Tensor:
    """Offsets that read exactly dx, dy pixels away: the lattice's stretch to W pixels undone."""
    x, y = np.arange(width), np.arange(height)
    across = (x + dx) / width - x / (width - 1)
    down = (y + dy) / height - y / (height - 1)
    return torch.from_numpy(np.stack(np.meshgrid(across, down), axis=-1))[None]


def test_official_points_are_the_four_corners_which_stay_and_two_on_the_diagonal_which_move_along_it() -> None:
    for seed in range(DRAWS):
        sources, destinations = official_points(rng(seed))
        assert np.array_equal(sources[:4], CORNERS)
        assert np.array_equal(destinations[:4], CORNERS)
        for points in (sources[4:], destinations[4:]):
            assert np.array_equal(points[:, 0], points[:, 1])
        place, shift = sources[4:, 0], destinations[4:, 0] - sources[4:, 0]
        assert ((place >= 0.3) & (place <= 0.7)).all()
        assert (np.abs(shift) <= 0.25 + 1e-9).all()


def test_official_points_have_two_decimals_and_fill_their_ranges() -> None:
    drawn = [official_points(rng(seed)) for seed in range(DRAWS)]
    place = np.array([sources[4:, 0] for sources, _ in drawn])
    shift = np.array([destinations[4:, 0] - sources[4:, 0] for sources, destinations in drawn])
    for values, low, high in ((place, 0.3, 0.7), (shift, -0.25, 0.25)):
        assert np.abs(values * 100 - np.round(values * 100)).max() < 1e-9
        assert values.min() < low + 0.02
        assert values.max() > high - 0.02
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.02)


def test_two_official_points_never_move_to_one_place_not_even_up_to_rounding() -> None:
    one_rng = rng()
    gaps = [np.subtract(*official_points(one_rng)[1][4:, 0]) for _ in range(5000)]
    assert np.abs(gaps).min() > 0.005


def test_grid_points_are_a_lattice_displaced_by_at_most_the_magnitude() -> None:
    sources, destinations = grid_points(rng(), 4, 0.1)
    assert {tuple(point) for point in sources} == {(x, y) for x in np.linspace(0, 1, 4) for y in np.linspace(0, 1, 4)}
    moved = np.abs(destinations - sources)
    assert 0.07 < moved.max() <= 0.1
    assert np.abs(moved[:, 0] - moved[:, 1]).max() > 0.01  # the axes are drawn apart


@pytest.mark.parametrize("seed", range(8))
def test_the_spline_sends_every_destination_back_to_its_source(seed: int) -> None:
    sources, destinations = official_points(rng(seed))
    field = offsets((sources, destinations), 101, 101)[0].numpy()  # this lattice has every two-decimal point
    for source, destination in zip(sources, destinations, strict=True):
        column, row = np.round(destination * 100).astype(int)
        assert destination + field[row, column] == pytest.approx(source, abs=1e-9)


def test_an_affine_displacement_is_reproduced_everywhere_and_bends_nothing() -> None:
    _, destinations = grid_points(rng(), 3, 0.1)
    linear, constant = np.array([[0.1, -0.2], [0.05, 0.3]]), np.array([0.02, -0.07])
    field = offsets((destinations + destinations @ linear.T + constant, destinations), 9, 13)[0].numpy()
    lattice = np.stack(np.meshgrid(np.linspace(0, 1, 13), np.linspace(0, 1, 9)), axis=-1)
    assert field == pytest.approx(lattice @ linear.T + constant, abs=1e-9)


def test_the_spline_is_the_textbooks_solved_point_by_point() -> None:
    sources, destinations = official_points(rng(5))
    count = len(sources)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        distance = float(np.hypot(*(a - b)))
        return distance**2 * np.log(distance + 1e-6)

    system = np.zeros((count + 3, count + 3))
    for i, a in enumerate(destinations):
        system[i, :count] = [kernel(a, b) for b in destinations]
        system[i, count:] = system[count:, i] = 1, *a
    weights = np.linalg.solve(system, np.concatenate([sources - destinations, np.zeros((3, 2))]))
    field = offsets((sources, destinations), 6, 8)[0].numpy()
    for row, y in enumerate(np.linspace(0, 1, 6)):
        for column, x in enumerate(np.linspace(0, 1, 8)):
            here = np.array([x, y])
            basis = [kernel(here, b) for b in destinations] + [1, x, y]
            assert field[row, column] == pytest.approx(basis @ weights, abs=1e-9)


def test_the_official_warp_moves_along_the_diagonal_only_and_is_symmetric_about_it() -> None:
    field = offsets(official_points(rng(2)), 24, 24)[0]
    assert torch.allclose(field[..., 0], field[..., 1], atol=1e-9)
    assert torch.allclose(field, field.transpose(0, 1), atol=1e-9)
    assert field.abs().max() > 0.05


def test_the_official_warp_is_as_strong_as_was_measured_on_the_released_code() -> None:
    largest = np.array([offsets(official_points(rng(seed)), 16, 16).norm(dim=-1).max() for seed in range(DRAWS)])
    assert np.median(largest) == pytest.approx(0.27, abs=0.02)
    assert np.quantile(largest, 0.95) == pytest.approx(0.43, abs=0.05)


def test_a_batch_is_warped_as_its_images_alone() -> None:
    points = [official_points(rng(seed)) for seed in range(3)]
    sources, destinations = (torch.from_numpy(np.stack(column)) for column in zip(*points, strict=True))
    together = tps_offsets(sources, destinations, 16, 20)
    for row, pair in enumerate(points):
        assert torch.allclose(together[row], offsets(pair, 16, 20)[0], atol=1e-9)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (5, 0), (0, -3), (-2, 4)])
def test_offsets_of_whole_pixels_move_the_image_and_leave_black_behind(dx: int, dy: int) -> None:
    image = head(32)
    moved = warp(image, pixel_offsets(dx, dy, 32, 32))
    wanted = torch.zeros_like(image)
    to_rows, to_columns = slice(max(0, -dy), 32 - max(0, dy)), slice(max(0, -dx), 32 - max(0, dx))
    from_rows, from_columns = slice(max(0, dy), 32 + min(0, dy)), slice(max(0, dx), 32 + min(0, dx))
    wanted[..., to_rows, to_columns] = image[..., from_rows, from_columns]
    assert torch.allclose(moved, wanted, atol=1e-4)


def test_x_is_across_and_y_is_down_on_images_that_are_not_square() -> None:
    image = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    moved = warp(image, pixel_offsets(3, 0, 12, 20))
    assert torch.allclose(moved[..., :17], image[..., 3:], atol=1e-4)


def test_without_offsets_the_image_still_shrinks_by_a_pixel_and_its_last_row_and_column_are_black() -> None:
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, 1, 32, 32)
    shrunk = warp(ramp, torch.zeros(1, 32, 32, 2, dtype=torch.float64))
    assert (shrunk[..., -1, :] == 0).all()
    assert (shrunk[..., :, -1] == 0).all()
    read_at = torch.arange(2, 28) * 32 / 31  # pixels
    assert torch.allclose(
        shrunk[0, 0, 10, 2:28], 0.2 + 0.6 * read_at / 31, atol=2e-3
    )  # this cubic bends a straight line a little


def test_only_the_constant_border_is_black() -> None:
    white = torch.ones(1, 3, 16, 16)
    outside = pixel_offsets(9, 9, 16, 16)
    assert warp(white, outside)[..., 8:, 8:].max() == 0
    for border in ("replicate", "reflect"):
        assert torch.allclose(warp(white, outside, border=border), white, atol=1e-5)


def test_beyond_the_border_replicate_repeats_the_last_column_and_reflect_goes_back() -> None:
    ramp = torch.arange(16).div(16).expand(1, 1, 16, 16)
    outside = pixel_offsets(5, 0, 16, 16)
    last = ramp[0, 0, 0, 15]
    assert torch.allclose(warp(ramp, outside, border="replicate")[0, 0, :, 11:], last, atol=1e-4)
    assert torch.allclose(warp(ramp, outside, border="reflect")[0, 0, 4, 11:], ramp[0, 0, 0, [14, 13, 12, 11, 10]], atol=1e-4)


def test_cubic_overshoot_is_cut_at_black_and_white() -> None:
    checks = (torch.arange(24)[:, None] // 4 + torch.arange(24) // 4).remainder(2).float().expand(1, 3, 24, 24)
    warped = warp(checks, pixel_offsets(0.5, 0.5, 24, 24))
    assert (warped.min(), warped.max()) == (0, 1)
    assert warp(checks * 0.5, pixel_offsets(0.5, 0.5, 24, 24)).max() > 0.52  # there is something to cut
