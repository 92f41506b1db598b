"""The metrics: title, direction, decimals, pretrained network.

No condition elsewhere depends on a metric's name, except in the recipe, which lists them, and the protocol, which measures
them. Nothing heavy is imported here: tables are made without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.errors import unknown

if TYPE_CHECKING:
    from attnbench.config.recipe import Evaluation

USUAL_DIMS = 2048  # the usual width of the Inception layer; other widths are part of the title


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        title: in tables; `titled` appends the protocol settings that change the scale.
        decimals: digits shown; two more at Inception widths 64 and 768, where distances are far smaller.
        lower_is_better: its direction.
        per_image: whether each test pair has a score; otherwise it is a distance between two sets of images.
        network: its pretrained network, as named by `attnbench weights`; `{option}` stands for an option of `evaluation`.
        in_paper: whether the paper reports this quantity.
        note: a remark, for the model card.
    """

    title: str
    decimals: int
    lower_is_better: bool
    per_image: bool
    network: str | None = None
    in_paper: bool = False
    note: str = ""

    def network_name(self, evaluation: Mapping[str, Any]) -> str | None:
        """The network's name for these options of `evaluation`."""
        return self.network.format(**evaluation) if self.network else None

    def decimals_at(self, dims: int | None) -> int:
        return self.decimals + 2 * (dims in (64, 768))


METRICS: Mapping[str, Metric] = {
    "fid": Metric("FID", 2, lower_is_better=True, per_image=False, network="inception", in_paper=True),
    "kid": Metric("KID", 4, lower_is_better=True, per_image=False, network="inception"),
    "ssim_global": Metric(
        "SSIM (global)", 3, lower_is_better=False, per_image=True, in_paper=True, note="one window, the whole grey image"
    ),
    "ssim": Metric("SSIM (windowed)", 3, lower_is_better=False, per_image=True, note="11 x 11 Gaussian window"),
    "lpips": Metric("LPIPS", 3, lower_is_better=True, per_image=True, network="lpips-{lpips_network}"),
}
PER_IMAGE = tuple(name for name, metric in METRICS.items() if metric.per_image)
OF_SETS = tuple(name for name, metric in METRICS.items() if not metric.per_image)
IN_PAPER = tuple(name for name, metric in METRICS.items() if metric.in_paper)
BEST_EPOCH_BY = "fid"  # if every epoch is measured
PAIRS_RANKED_BY = ("lpips", "ssim", "ssim_global")  # the first of these that every generator has


def titled(name: str, protocol: Mapping[str, Any]) -> str:
    """A metric's title with the protocol settings that change its scale; an unknown metric keeps its name.

    Args:
        protocol: how the metric was measured; only `dims` and `network` are read.

    >>> titled("fid", {"value": 1.5, "dims": 192}), titled("fid", {"dims": 2048}), titled("lpips", {"network": "alex"})
    ('FID-192', 'FID', 'LPIPS-alex')
    """
    title, dims, network = title_of(name), protocol.get("dims"), protocol.get("network")
    if dims is not None and dims != USUAL_DIMS:
        return f"{title}-{dims:.0f}"
    return f"{title}-{network}" if network else title


def title_of(name: str) -> str:
    return METRICS[name].title if name in METRICS else name


def lower_is_better(name: str) -> bool:
    return name in METRICS and METRICS[name].lower_is_better


def default_columns(asked: Iterable[str]) -> list[str]:
    """Table columns for the metrics of a recipe: the paper's, or all if the first of the paper's (FID) is missing."""
    asked = list(asked)
    return [name for name in IN_PAPER if name in asked] if IN_PAPER[0] in asked else asked


def networks_needed(evaluation: Evaluation) -> list[str]:
    """Pretrained networks that a recipe's metrics need, as named by `attnbench weights`."""
    options = evaluation.model_dump()
    found = [METRICS[name].network_name(options) for name in METRICS if name in evaluation.metrics]
    return list(dict.fromkeys(name for name in found if name))


def check_metrics(metrics: Iterable[str]) -> None:
    """Raises UserError for an unknown metric."""
    for metric in metrics:
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
