"""Style relevance: whether a picture has the colours and textures of its reference, as translation by exemplars reports it.

Zhang et al., "Cross-domain Correspondence Learning for Exemplar-based Image Translation" (CoCosNet), CVPR 2020, section 4.
In VGG19, relu1_2 stands for colour and relu2_2 for texture. With m_l(X) the mean of the layer's activations over all positions,
one value for each channel,

    colour  = cos(m_1(G), m_1(R))    relu1_2, 64 channels
    texture = cos(m_2(G), m_2(R))    relu2_2, 128 channels

The paper says which layers. That means of channels are compared by their angle is what a successor's evaluation script does
(MATEBIT, CVPR 2023). Two readings of this project make its numbers others than those of papers. That script takes the means
region by region, of a semantic map that few datasets have, and weighs regions by their size: here the picture is one region.
And one score stands for colour and texture, their mean; the two are recorded beside it.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from attnbench.method.losses import Features, PerceptualFeatures
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures


class StyleRelevance:
    """Style relevance to the reference: how alike colours and textures are, wherever they are; in [0, 1], 1 for the reference.

    Cosine similarity of the mean VGG19 features at relu1_2 (colour) and relu2_2 (texture), the mean of the two. Both are
    recorded with it, and where there are originals `original`, what these score, whose colours owe nothing to the reference. As
    the features are never negative, any two pictures are alike: `original`, not 0, is where the scale begins.

    It sees which colours and textures a picture has, and how much of each. It does not see where they are, and a copy of the
    reference is its best picture: read it beside a metric that sees whether a picture keeps its sketch.
    """

    title, decimals, lower_is_better, per_image = "style relevance", 3, False, True
    range, needs, uses, packages = (0, 1), ("vgg19",), ("reference",), ("timm",)
    companion = "outline"

    def measure(self, pictures: Pictures) -> Score:
        network = PerceptualFeatures.pretrained(imagenet_normalization=True).to(pictures.device)
        network.to(memory_format=torch.channels_last)  # on a CPU, two thirds of the time
        originals = [pictures.wanted] if "wanted" in pictures.available else []
        means = means_of(pictures, torch.cat([pictures.generated, pictures.reference, *originals]), network)
        generated, reference, *others = zip(*(layer.split(len(pictures)) for layer in means), strict=True)
        alike = similarities(generated, reference)
        details = dict(zip(("colour", "texture"), alike.mean(1).tolist(), strict=True))
        if others:
            details["original"] = float(similarities(others[0], reference).mean())
        return Score(alike.mean(0), {name: round(value, 4) for name, value in details.items()})


def means_of(pictures: Pictures, images: Tensor, features: Features) -> list[Tensor]:
    """Each layer's activations, averaged over positions: (M, channels) float64 of each, on the CPU.

    Of equal images those of one are computed: most originals are some other sketch's reference.

    Args:
        images: (M, 3, S, S) uint8.
        features: images in [-1, 1] -> activations of each layer, (b, channels, h, w).
    """
    digests = [sha256(image.numpy().tobytes()).digest() for image in images]
    first = {digest: row for row, digest in reversed(list(enumerate(digests)))}
    found: list[list[Tensor]] = []
    for (batch,) in pictures.batches(images[list(first.values())]):
        inputs = batch.to(memory_format=torch.channels_last) / 127.5 - 1
        found.append([layer.mean((2, 3)) for layer in features(inputs)])
    places = {digest: place for place, digest in enumerate(first)}
    rows = [places[digest] for digest in digests]
    return [torch.cat(layer).cpu().double()[rows] for layer in zip(*found, strict=True)]


def similarities(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> np.ndarray:
    """(layers, N): the cosine of each picture's means of channels in `a` and in `b`, (N, channels) of each layer."""
    return np.stack([cosine_similarity(one, other).clamp(max=1).numpy() for one, other in zip(a, b, strict=True)])
