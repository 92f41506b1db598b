"""Evaluation: fixed pairs -> generated images -> scores per image and distances between sets.

Every test sketch is coloured with another test image as its reference. A generated image is compared with the sketch's own
colour image, as in the paper's released code, so even a perfect colouring, which has the reference's colours, does not reach
an SSIM of 1.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from attnbench import weights
from attnbench.config.recipe import Evaluation, Recipe, digest
from attnbench.data.batches import pair_batch
from attnbench.data.images import ImageSet, PreparedDataset, cache_folder, decode
from attnbench.data.layouts import Picture
from attnbench.files import replacing
from attnbench.method.precision import tf32
from attnbench.metrics.frechet import InceptionFeatures, features_of, frechet_distance, kernel_distance
from attnbench.metrics.known import OF_SETS
from attnbench.metrics.perceptual import LPIPS
from attnbench.metrics.ssim import grey_levels, ssim, ssim_global

Pairs = list[tuple[int, int]]  # (index of the sketch, index of the reference) in the test set
BATCH = 16  # pairs that a generator colours at once

# Images that a metric takes at once. On a CPU few enough that a layer of the Inception stays below 32 MB: above that, glibc
# requests the memory of every tensor anew from the system, and page faults add a third to the time.
CHUNK = {"cpu": 4, "cuda": 32}


@dataclass(frozen=True)
class Measured:
    """The result of an evaluation.

    Attributes:
        metrics: name -> {"value": number or None, ...}, with how it was measured, and "reason" if the value is None.
        scores: one row per pair: sketch, reference, and the per-image metrics.
        pairs: indices of the rows' test images.
        generated: (N, 3, S, S) uint8 on the CPU, in the order of the pairs.
    """

    metrics: dict[str, dict[str, Any]]
    scores: pd.DataFrame
    pairs: Pairs
    generated: Tensor


def pair_list(count: int, recipe: Evaluation) -> Pairs:
    """The pairs to evaluate: a function of the number of test images and the recipe, the same for all modules.

    `derangement`: a random cycle through all images (Sattolo's algorithm), so that each is a sketch once and a reference
    once, never its own reference. `official`: a random order, cut into batches of 16, the incomplete one dropped; each sketch
    takes the next image of its batch.
    """
    rng = np.random.default_rng(recipe.pair_seed)
    if recipe.pairing == "official":
        order = [int(i) for i in rng.permutation(count)]
        size = min(16, count)  # the released code's batch size, not `train.batch_size`
        batches = [order[i : i + size] for i in range(0, count - size + 1, size)]
        return [(batch[i], batch[(i + 1) % size]) for batch in batches for i in range(size)]
    cycle = list(range(count))
    for i in range(count - 1, 0, -1):
        j = int(rng.integers(i))
        cycle[i], cycle[j] = cycle[j], cycle[i]
    return list(enumerate(cycle))


@torch.no_grad()
@tf32(False)  # a measurement does not depend on the recipe's `train.tf32`
def generate(
    generator: nn.Module,
    images: ImageSet,
    pairs: Pairs,
    recipe: Recipe,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Colour every pair in eval mode and float32: (N, 3, S, S) uint8 on the CPU, as read from files of the recipe's format."""
    was_training = generator.training
    generator.eval()
    results = []
    for start in range(0, len(pairs), BATCH):
        batch = pair_batch(images, pairs[start : start + BATCH], data=recipe.data, device=device)
        results.append(to_bytes(generator(batch.sketch, batch.reference)).cpu())
        if progress:
            progress(min(start + BATCH, len(pairs)), len(pairs))
    generator.train(was_training)
    generated = torch.cat(results)
    return _through_jpeg(generated, 75) if recipe.evaluation.format == "jpeg75" else generated


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def evaluate(
    generator: nn.Module,
    dataset: PreparedDataset,
    recipe: Recipe,
    device: torch.device,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Colour the test pairs with a trained generator, and measure the images by the recipe's protocol."""
    pairs = pair_list(len(dataset.test), recipe.evaluation)
    generated = generate(generator, dataset.test, pairs, recipe, device, progress)
    return measure(generated, pairs, dataset, recipe, device, cache=cache)


@tf32(False)  # a measurement does not depend on the recipe's `train.tf32`
def measure(
    generated: Tensor,
    pairs: Pairs,
    dataset: PreparedDataset,
    recipe: Recipe,
    device: torch.device,
    *,
    cache: Path | None = None,
) -> Measured:
    """Measure generated images by the recipe's protocol.

    Args:
        generated: (N, 3, S, S) uint8 on the CPU, in the order of the N pairs.
        cache: where features of real images are kept; by default the user's cache folder.
    """
    images = dataset.test
    wanted = images.images[torch.tensor([sketch for sketch, _ in pairs])]

    scores = pd.DataFrame({"sketch": [images.names[i] for i, _ in pairs], "reference": [images.names[j] for _, j in pairs]})
    metrics: dict[str, dict[str, Any]] = {}
    for name in recipe.evaluation.metrics:
        if name in OF_SETS:
            continue
        try:
            values, how = _image_scores(name, generated, wanted, recipe.evaluation, device)
        except weights.MissingWeights as missing:
            metrics[name] = _unmeasured(missing)
            continue
        scores[name] = values
        metrics[name] = {"value": _finite(values.mean()), "n": len(values), **how}
    if set(OF_SETS) & set(recipe.evaluation.metrics):
        metrics |= _set_distances(generated, dataset, recipe, device, cache or cache_folder())
    return Measured({name: metrics[name] for name in recipe.evaluation.metrics}, scores, pairs, generated)


def _image_scores(
    name: str, generated: Tensor, wanted: Tensor, recipe: Evaluation, device: torch.device
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scores, (N,), and how they were measured."""
    if name == "lpips":
        network: Callable[[Tensor, Tensor], Tensor] = LPIPS(recipe.lpips_network).to(device)
        path = weights.find_or_download(f"lpips-{recipe.lpips_network}")
        how = {"network": recipe.lpips_network, "weights": weights.file_digest(path)}
    else:
        function = {"ssim_global": ssim_global, "ssim": ssim}[name]
        network, how = (lambda a, b: function(grey_levels(a), grey_levels(b))), {}
    chunks = zip(generated.split(_chunk(device)), wanted.split(_chunk(device)), strict=True)
    scores = [network(a.to(device), b.to(device)) for a, b in chunks]
    return torch.cat(scores).cpu().double().numpy(), how


def _set_distances(
    generated: Tensor, dataset: PreparedDataset, recipe: Recipe, device: torch.device, cache: Path
) -> dict[str, dict[str, Any]]:
    """FID and KID between the generated and the real test images.

    Their floor is the distance between as many real training images and the same test images.
    """
    protocol = recipe.evaluation
    names = [name for name in protocol.metrics if name in OF_SETS]
    try:
        network = InceptionFeatures(protocol.fid_dims).to(device)
    except weights.MissingWeights as missing:
        return {name: _unmeasured(missing) for name in names}
    path = weights.find_or_download("inception")
    how = {"dims": protocol.fid_dims, "weights": weights.file_digest(path), "real_size": protocol.real_size}
    fake = features_of(generated.split(_chunk(device)), network, device)
    if not np.isfinite(fake).all():
        reason = (
            f"the features of width {protocol.fid_dims} are not finite: '{path.name}' is incomplete above a narrower layer "
            "(get the whole file, or set evaluation.fid_dims)"
        )
        return {name: {"value": None, "reason": reason, **how} for name in names}

    def real(split: str, rows: Sequence[int] | None = None) -> np.ndarray:
        return _real_features(dataset, split, rows, network, recipe, device, how, cache)

    test = real("test")
    count = min(len(fake), len(dataset.train_pictures))
    subset = np.random.default_rng(protocol.pair_seed).permutation(len(dataset.train_pictures))[:count]
    train = real("train", sorted(int(i) for i in subset))
    distances = {"fid": frechet_distance, "kid": kernel_distance}
    return {
        name: {
            "value": _finite(distances[name](fake, test)),
            "n": len(fake),
            "n_real": len(test),
            "floor": _finite(distances[name](train, test)),
            "n_floor": len(train),
            **how,
        }
        for name in names
    }


def _real_features(
    dataset: PreparedDataset,
    split: str,
    rows: Sequence[int] | None,
    network: nn.Module,
    recipe: Recipe,
    device: torch.device,
    how: dict[str, Any],
    cache: Path,
) -> np.ndarray:
    """Features of a split's real images, or of some rows: computed once per dataset, then read from the cache."""
    images, pictures = getattr(dataset, split), getattr(dataset, f"{split}_pictures")
    native = recipe.evaluation.real_size == "native"
    size = None if native else recipe.data.size
    key = digest([dataset.fingerprint, split, rows, how, size])
    file = cache / "features" / f"{key}.npy"
    if file.is_file():
        return np.load(file)
    rows = rows if rows is not None else range(len(images))
    at_once = _chunk(device)
    batches = _native(pictures, rows, at_once) if native else images.images[list(rows)].split(at_once)
    features = features_of(batches, network, device)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, sync=False) as draft, draft.open("wb") as opened:
        np.save(opened, features)
    return features


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


def _chunk(device: torch.device) -> int:
    return CHUNK.get(device.type, BATCH)


def _through_jpeg(images: Tensor, quality: int) -> Tensor:
    """The images after a round trip through JPEG of this quality."""
    decoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(decoded)


def _unmeasured(missing: weights.MissingWeights) -> dict[str, Any]:
    return {"value": None, "reason": str(missing), "missing": missing.name}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
