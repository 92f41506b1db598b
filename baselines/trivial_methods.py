"""Methods that find no correspondence: floors for `attnbench score --method`, and examples of the group `attnbench.methods`.

A method is a function (sketch, reference) -> picture: Pillow images, grey (`L`), `RGB` and `RGB`, the picture of the sketch's
size. Nothing in this file is attnbench's.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from skimage.exposure import match_histograms
from skimage.filters import gaussian

SPREAD = 1 / 16  # standard deviation of the smoothing, as a share of the sketch's width


def copy(sketch: Image.Image, reference: Image.Image) -> Image.Image:
    """The sketch itself, without any colour."""
    return sketch.convert("RGB")


def recolour(sketch: Image.Image, reference: Image.Image) -> Image.Image:
    """The reference's histograms on the smoothed sketch, without correspondence.

    Line art has two tones; with its smoothed self added, it is darker where lines are dense. Each channel is this, mapped so
    that its histogram is the reference's (H x W x 3), times the lines:

        tones  = sketch + G(sketch),  G a Gaussian of a sixteenth of the width
        colour = sketch / 255 * match(tones, reference)
    """
    lines = np.asarray(sketch, dtype=np.float64)
    tones = lines + gaussian(lines, sigma=SPREAD * sketch.width, preserve_range=True)
    channels = np.repeat(tones[:, :, None], 3, axis=2)
    matched = match_histograms(channels, np.asarray(reference, dtype=np.float64), channel_axis=-1)
    colour = matched * (lines / 255)[:, :, None]
    return Image.fromarray(colour.round().clip(0, 255).astype(np.uint8))


def paste(sketch: Image.Image, reference: Image.Image) -> Image.Image:
    """The reference itself, as it is.

    What it scores is what copying by position scores: every pixel has the colour of the reference's pixel at the same place.
    """
    picture = reference.convert("RGB")
    return picture if picture.size == sketch.size else picture.resize(sketch.size, Image.Resampling.BICUBIC)
