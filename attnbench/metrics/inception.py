"""Features of pictures in pytorch-fid's Inception, with the weights in common use; computed once for all metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attnbench import weights
from attnbench.data.images import decode
from attnbench.data.layouts import Picture
from attnbench.errors import NotMeasurable
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures, RealImages, at_once

DIMS = (64, 192, 768, 2048)  # widths of its layers
USUAL_DIMS = 2048
NETWORK = "inception"


def networks() -> list[weights.Weights]:
    """The network's file, as `attnbench weights` lists it."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    return [weights.Weights(NETWORK, "distances of sets (Inception)", FID_WEIGHTS_URL)]


@dataclass(frozen=True)
class Features:
    """Features of generated, real test, and as many real training images: (N, dims), (M, dims), (K, dims) float64.

    Attributes:
        train: None if there are no training images that belong to the test images.
    """

    generated: np.ndarray
    test: np.ndarray
    train: np.ndarray | None


class SetMetric:
    """A number of the generated and the real test images as two sets, in features of the Inception.

    Recorded with it, by the name `limit`: the number of as many real training images and the same test images, the best that
    can be expected.

    Args:
        dims: width of the Inception layer: 64, 192, 768 or 2048; numbers of different widths are different quantities.
        real_size: size at which the real images enter the network: `native`, or `target`, that of the generated ones.
    """

    name: ClassVar[str]
    limit: ClassVar[str]
    per_image = False
    needs, uses, packages = (NETWORK,), ("real",), ("pytorch-fid",)
    settings: ClassVar = {"fid_dims": "dims", "real_size": "real_size"}
    networks = staticmethod(networks)

    def __init__(self, *, dims: int = USUAL_DIMS, real_size: str = "native"):
        if dims not in DIMS:
            raise ValueError(f"dims={dims}: expected one of {', '.join(map(str, DIMS))}")
        if real_size not in ("native", "target"):
            raise ValueError(f"real_size={real_size}: expected native or target")
        self.dims, self.real_size = dims, real_size

    def lack(self, generated: int, real: int) -> str | None:
        """Why so many pictures, generated and real ones, have no number; None if they have one."""
        raise NotImplementedError

    def between(self, pictures: Pictures, side: str) -> float:
        """The number of one side of `Features`, `generated` or `train`, and the test images."""
        raise NotImplementedError

    def features(self, pictures: Pictures) -> Features:
        return features_for(pictures, self.dims, self.real_size)

    @property
    def title(self) -> str:
        """With the options that change the scale."""
        width = f"-{self.dims}" if self.dims != USUAL_DIMS else ""
        return f"{self.name}{width}" + (" (real at target size)" if self.real_size == "target" else "")

    def measure(self, pictures: Pictures) -> Score:
        real = len(pictures.real.dataset.test_pictures)
        if lack := self.lack(len(pictures), real):
            raise NotMeasurable(lack)
        details: dict[str, Any] = {"n_real": real}
        train = self.features(pictures).train
        if train is not None and not self.lack(len(train), real):
            best = self.between(pictures, "train")
            details |= {self.limit: best if np.isfinite(best) else None, f"n_{self.limit}": len(train)}
        return Score(self.between(pictures, "generated"), details)


class SetDistance(SetMetric):
    """A distance between generated and real test images. FID and KID are its kinds; what is expected at best is its floor."""

    usual_decimals: ClassVar[int]
    lower_is_better, limit, floor_is = True, "floor", "real training against real test images"

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Of (N, dims) and (M, dims)."""
        raise NotImplementedError

    @property
    def decimals(self) -> int:
        """Two more at widths where distances are far smaller."""
        return self.usual_decimals + 2 * (self.dims in (64, 768))

    def lack(self, generated: int, real: int) -> str | None:
        return "a distance between sets needs at least two pictures" if min(generated, real) < 2 else None

    def between(self, pictures: Pictures, side: str) -> float:
        features = self.features(pictures)
        return self.distance(getattr(features, side), features.test)


def features_for(pictures: Pictures, dims: int, real_size: str) -> Features:
    """Features of the layer of width `dims`, computed once for all metrics that ask for them.

    Args:
        real_size: `native`, or `target`: the size at which real images enter the network.

    Raises:
        NotMeasurable: there are no real images, or the weights' file is incomplete above a narrower layer.
    """
    return pictures.once((NETWORK, dims, real_size), lambda: _features_for(pictures, dims, real_size))


def _features_for(pictures: Pictures, dims: int, real_size: str) -> Features:
    real, device = pictures.real, pictures.device
    network = InceptionFeatures(dims).to(device)
    path = weights.find_or_download(NETWORK)
    fake = features_of((batch for (batch,) in pictures.batches(pictures.generated)), network, device)
    if not np.isfinite(fake).all():
        raise NotMeasurable(
            f"the features of width {dims} are not finite: '{path.name}' is incomplete above a narrower layer (get the whole "
            "file, or choose a narrower layer with the option dims)"
        )
    how = {"dims": dims, "weights": weights.file_digest(path), "real_size": real_size}
    test = _real_features(real, "test", None, network, device, how)
    if not real.has_train:
        return Features(fake, test, None)
    pool = len(real.dataset.train_pictures)
    subset = np.random.default_rng(real.seed).permutation(pool)[: min(len(fake), pool)]
    train = _real_features(real, "train", sorted(int(i) for i in subset), network, device, how)
    return Features(fake, test, train)


def _real_features(
    real: RealImages, split: str, rows: Sequence[int] | None, network: nn.Module, device: torch.device, how: Mapping[str, Any]
) -> np.ndarray:
    """Features of a split's real images, or of some rows: computed once per dataset, then read from the cache."""
    dataset = real.dataset
    images, pictures = getattr(dataset, split), getattr(dataset, f"{split}_pictures")
    native, size = how["real_size"] == "native", at_once(device)

    def make() -> np.ndarray:
        wanted = rows if rows is not None else range(len(images))
        batches = _native(pictures, wanted, size) if native else images.images[list(wanted)].split(size)
        return features_of(batches, network, device)

    print_ = dataset.fingerprints[split]
    return real.kept([print_, split, rows, dict(how), None if native else real.size], make)


def _native(pictures: Sequence[Picture], rows: Sequence[int], at_once: int) -> Iterator[Tensor]:
    """Batches of (b, 3, H, W) uint8 at the images' own sizes; successive images of equal size share a batch."""
    arrays = (_decoded(pictures[row]).transpose(2, 0, 1) for row in rows)
    for _, group in groupby(arrays, key=lambda array: array.shape):
        batch: list[np.ndarray] = []
        for array in group:
            batch.append(array)
            if len(batch) == at_once:
                yield torch.from_numpy(np.stack(batch))
                batch = []
        if batch:
            yield torch.from_numpy(np.stack(batch))


def _decoded(picture: Picture) -> np.ndarray:
    """(H, W, 3) uint8."""
    with picture.open() as opened:
        return np.asarray(decode(opened))


class InceptionFeatures(nn.Module):
    """pytorch-fid's Inception up to the layer of width `dims`; (B, 3, H, W) uint8 -> (B, dims) float32.

    Images are resized to 299 x 299 inside the network; a feature map is averaged over its positions. Features differ from
    pytorch-fid's by float32 rounding: batch norms are folded into convolutions, and channels come last in memory, which
    together make it 1.5 times as fast on a CPU.

    Raises:
        weights.MissingWeights: its weights are not on this machine and cannot be downloaded.
    """

    def __init__(self, dims: int = 2048):
        from pytorch_fid.inception import InceptionV3

        super().__init__()
        weights.find_or_download(NETWORK)
        with weights.quiet_libraries():
            self.network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
        self.eval()
        fold_batch_norms(self.network)
        self.network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.network(images.to(memory_format=torch.channels_last).float() / 255)
        return features.mean((2, 3))


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm of an Inception in eval mode, a fixed scale and shift, into the convolution before it, in place."""
    from torchvision.models.inception import BasicConv2d

    for layer in network.modules():
        if isinstance(layer, BasicConv2d):  # conv, bn, relu
            layer.conv, layer.bn = fuse_conv_bn_eval(layer.conv, layer.bn), nn.Identity()


def features_of(batches: Iterable[Tensor], network: nn.Module, device: torch.device) -> np.ndarray:
    """Features of all images, in order: batches of (B, 3, H, W) uint8 -> (N, dims) float64."""
    features = [network(batch.to(device)) for batch in batches]  # kept on the device: copying each would wait for it
    return torch.cat(features).cpu().double().numpy()
