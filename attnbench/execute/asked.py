"""What a command wants measured of a cell, and what of it is still to be done."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from attnbench import weights
from attnbench.cells.cell import Cell
from attnbench.cells.record import MeasurementRecord, MetricRecord, Record
from attnbench.config.recipe import Data, Evaluation
from attnbench.data.images import ImageSet, PreparedDataset, prepare_folder
from attnbench.metrics.lacks import IMAGES_AWAY, NETWORK_AWAY
from attnbench.metrics.metric import Metric, metrics_of
from attnbench.metrics.protocol import VERSION, Protocol, measurement_identity, protocols_of
from attnbench.store.job import RunOptions
from attnbench.store.pictures import PICTURES

GENERATOR = "generator.safetensors"


@dataclass(frozen=True)
class ToMeasure:
    """Metrics of one measurement that are to be measured.

    Attributes:
        identity: of the measurement.
        earlier: the measurement as far as there is one.
    """

    protocol: Protocol
    identity: str
    metrics: Sequence[Metric]
    earlier: MeasurementRecord | None = None

    @property
    def tried(self) -> bool:
        """Whether each of them has a number, or a reason why there is none, already."""
        return self.earlier is not None and all(metric.key in self.earlier.metrics for metric in self.metrics)

    def __str__(self) -> str:
        """`metric, other (same)`."""
        names = ", ".join(metric.key for metric in self.metrics)
        return f"{names} ({self.protocol.label})" if self.protocol.label else names


@dataclass(frozen=True)
class Asked:
    """What a command wants measured.

    Attributes:
        test: the fingerprint of the test images; None where they are not at hand: then of measurements that exist.
        again: also what is measured already.
        references: pictures from elsewhere, of a protocol with `folder`.
    """

    protocols: Sequence[Protocol]
    metrics: Sequence[Metric]
    test: str | None = None
    again: bool = False
    references: ImageSet | None = None

    @classmethod
    def of(cls, cell: Cell, options: RunOptions) -> Asked:
        """What the options ask of a cell.

        Raises:
            UserError: an unknown metric, or references that cannot be used.
        """
        return cls.of_options(options, cell.recipe.data).on(cell.dataset)

    @classmethod
    def of_options(cls, options: RunOptions, data: Data) -> Asked:
        """What the options ask, of test images that are not at hand; see `on`. Raises UserError as `of`."""
        metrics = _metrics(options.evaluation)
        if options.references is None:
            return cls(_protocols(options.evaluation), metrics, again=options.again)
        path = Path(options.references)
        images, digest = _references(path, data)
        usual = protocols_of(options.evaluation)[0]
        changes = {"references": "folder", "pairing": "derangement", "folder": path.name, "folder_digest": digest}
        return cls([usual.model_copy(update=changes)], metrics, again=options.again, references=images)

    def on(self, dataset: PreparedDataset) -> Asked:
        """The same of a dataset whose test images are at hand."""
        protocols = list(dict.fromkeys(protocol.on(len(dataset.test)) for protocol in self.protocols))
        return replace(self, test=dataset.fingerprints["test"], protocols=protocols)

    def open(self, record: Record) -> list[ToMeasure]:
        """What of it is not measured yet, protocol by protocol."""
        found = []
        for protocol in self.protocols:
            for identity, earlier in self._measurements(record, protocol):
                numbers = earlier.metrics if earlier else {}
                back = set() if self.test is None else {IMAGES_AWAY.format(record.dataset.name)}
                metrics = [one for one in self.metrics if self.again or not _stands(numbers.get(one.key), one, back)]
                if metrics:
                    found.append(ToMeasure(protocol, identity, metrics, earlier))
        return found

    def _measurements(self, record: Record, protocol: Protocol) -> list[tuple[str, MeasurementRecord | None]]:
        if self.test is not None:
            identity = measurement_identity(record.identity, self.test, protocol)
            return [(identity, record.measurement(identity))]
        return [(one.identity, one) for one in record.measurements if one.protocol.values == protocol.values]


@lru_cache(maxsize=8)
def _metrics(evaluation: Evaluation) -> list[Metric]:
    return metrics_of(evaluation)


@lru_cache(maxsize=8)
def _protocols(evaluation: Evaluation) -> list[Protocol]:
    return protocols_of(evaluation)


@lru_cache(maxsize=4)
def _references(folder: Path, data: Data) -> tuple[ImageSet, str]:
    return prepare_folder(folder, data)


def _stands(number: MetricRecord | None, metric: Metric, mended: AbstractSet[str]) -> bool:
    """Whether a number, or the reason why there is none, needs no further work.

    Args:
        mended: reasons that are none any more.
    """
    if number is None or number.metric.options != metric.descriptor.options or number.failed:
        return False
    if number.provenance is not None and (number.provenance.protocol or 1) != VERSION:  # before version 1 there was none
        return False
    if number.value is None and number.reason in mended | {NETWORK_AWAY}:
        return False
    return number.missing is None or weights.find(number.missing) is None


def can_be_measured(path: Path, record: Record, todo: Sequence[ToMeasure]) -> str | None:
    """Why a trained cell, or a row of pictures, cannot be measured any further; None if it can.

    Args:
        path: the cell's folder.
    """
    if (path / GENERATOR).is_file():
        return None
    if all(one.earlier and (path / one.earlier.folder / PICTURES).is_file() for one in todo):
        return None
    if record.pictures:
        return "its pictures of this protocol were not kept: `attnbench score` measures them again"
    return (
        f"its generator ({GENERATOR}) is not here, and it kept no pictures of this protocol: copy it from where it was trained"
    )
