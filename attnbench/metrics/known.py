"""What is known of each metric: its name, its direction, how it is shown, which network it needs."""

from __future__ import annotations

from collections.abc import Iterable

from attnbench.errors import unknown

IMAGE_METRICS = ("ssim_global", "ssim", "lpips")  # those with a score for each test pair


LOWER_IS_BETTER = frozenset({"fid", "kid", "lpips"})


DEFAULT_METRICS = ("fid", "ssim_global")  # the paper's columns


METRIC_NAMES = {"fid": "FID", "kid": "KID", "ssim_global": "SSIM (global)", "ssim": "SSIM (windowed)", "lpips": "LPIPS"}


SET_METRICS = ("fid", "kid")  # distances of sets of images: no image has a score of its own


INCEPTION = "inception"  # their network, as `attnbench weights` lists it


DECIMALS = {"fid": 2, "kid": 4, "ssim_global": 3, "ssim": 3, "lpips": 3}


def check_metrics(metrics: Iterable[str]) -> None:
    """Raises UserError for a name that is no metric's."""
    for metric in metrics:
        if metric not in METRIC_NAMES:
            raise unknown("metric", metric, METRIC_NAMES)
