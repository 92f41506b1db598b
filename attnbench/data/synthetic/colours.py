"""Parts of a drawing and their colours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import cos, pi, sin
from typing import TypeAlias

from attnbench.data.synthetic.dice import Dice

RGB: TypeAlias = tuple[int, int, int]
_OKLab: TypeAlias = tuple[float, float, float]

PARTS: tuple[str, ...] = ("background", "clothes", "trim", "skin", "hair", "eyes", "accessory", "thing")
BACKGROUND, CLOTHES, TRIM, SKIN, HAIR, EYES, ACCESSORY, THING = range(len(PARTS))

INK: RGB = (44, 32, 48)
SHADOW: RGB = (84, 48, 120)  # shade is pulled towards violet, which looks livelier than towards black
WHITE: RGB = (255, 255, 255)
PINK: RGB = (240, 96, 112)

SKIN_TONES: tuple[RGB, ...] = ((255, 228, 208), (252, 212, 182), (238, 190, 152), (212, 158, 120), (172, 120, 90))
APART = 0.115  # distance in OKLab below which two colours of a palette are drawn anew; 0.02 can just be told apart


@dataclass(frozen=True)
class Palette:
    """The colour of each part, one RGB triple of 0..255 per name in `PARTS`, whether the head has the part or not."""

    background: RGB
    clothes: RGB
    trim: RGB
    skin: RGB
    hair: RGB
    eyes: RGB
    accessory: RGB
    thing: RGB


def palette_of(seed: int, index: int) -> Palette:
    """Colours that can be told apart: pale walls, clothes and hair of any hue, natural hair now and then."""
    dice = Dice("colours", seed, index)
    while True:
        colours = _drawn(dice)
        if all(_distance(one, other) >= APART for one, other in combinations(colours, 2)):
            return Palette(*map(_rgb_of, colours))


def mixed(colour: RGB, tint: RGB, amount: float) -> RGB:
    """`colour` pulled towards `tint`; `amount` in [0, 1]."""
    red, green, blue = (round(plain + amount * (pull - plain)) for plain, pull in zip(colour, tint, strict=True))
    return red, green, blue


def _drawn(dice: Dice) -> list[_OKLab]:
    """A colour for each of `PARTS`, in their order."""
    hue = dice.between(110, 360)  # degrees; the rest of the circle is pink to peach, which swallows faces
    clothes, hair, eyes = (hue + turn + dice.between(-15, 15) for turn in dice.shuffled((90, 180, 270)))
    trim, accessory, thing = (hue + turn + dice.between(-15, 15) for turn in dice.shuffled((45, 135, 225, 315))[:3])
    vivid = dice.chance(0.7)
    return [
        _oklch(dice.between(0.80, 0.90), dice.between(0.08, 0.12), hue),
        _oklch(_lit(dice.between(0.55, 0.74), clothes), dice.between(0.13, 0.20), clothes),
        _oklch(dice.pick((0.95, 0.92, 0.42)), dice.between(0.02, 0.09), trim),
        _lab_of(_skin(dice.between(0, len(SKIN_TONES) - 1))),
        _oklch(_lit(dice.between(0.58, 0.78), hair), dice.between(0.12, 0.19), hair) if vivid else _natural_hair(dice),
        _oklch(_lit(dice.between(0.54, 0.68), eyes), dice.between(0.14, 0.20), eyes),
        _oklch(_lit(dice.between(0.48, 0.72), accessory), dice.between(0.14, 0.21), accessory),
        _oklch(_lit(dice.between(0.50, 0.80), thing), dice.between(0.12, 0.20), thing),
    ]


def _natural_hair(dice: Dice) -> _OKLab:
    """Blond, brown, black or silver."""
    lightness, chroma, hue = dice.pick(((0.86, 0.12, 92), (0.50, 0.08, 55), (0.42, 0.03, 280), (0.80, 0.02, 270)))
    return _oklch(lightness + dice.between(-0.03, 0.03), chroma, hue)


def _skin(tone: float) -> RGB:
    below = min(int(tone), len(SKIN_TONES) - 2)
    return mixed(SKIN_TONES[below], SKIN_TONES[below + 1], tone - below)


def _lit(lightness: float, hue: float) -> float:
    """Yellow gets more light than other hues: without it, it looks like mud."""
    return lightness + 0.12 * max(0.0, cos(pi * (hue - 100) / 180)) ** 3


def _distance(a: _OKLab, b: _OKLab) -> float:
    """In OKLab, in which equal distances look equally different."""
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def _oklch(lightness: float, chroma: float, hue: float) -> _OKLab:
    """A colour by its hue in degrees; greyer where sRGB has no such colour."""
    while True:
        lab = (lightness, chroma * cos(pi * hue / 180), chroma * sin(pi * hue / 180))
        if all(0 <= value <= 1 for value in _linear(lab)):
            return lab
        chroma *= 0.95


def _linear(lab: _OKLab) -> list[float]:
    """Linear sRGB."""
    lightness, a, b = lab
    long = (lightness + 0.39634 * a + 0.21580 * b) ** 3
    medium = (lightness - 0.10556 * a - 0.06385 * b) ** 3
    short = (lightness - 0.08948 * a - 1.29149 * b) ** 3
    return [
        4.07674 * long - 3.30771 * medium + 0.23097 * short,
        -1.26844 * long + 2.60976 * medium - 0.34132 * short,
        -0.00420 * long - 0.70342 * medium + 1.70761 * short,
    ]


def _rgb_of(lab: _OKLab) -> RGB:
    def encoded(value: float) -> int:
        value = min(max(value, 0.0), 1.0)
        return round(255 * (1.055 * value ** (1 / 2.4) - 0.055 if value > 0.0031308 else 12.92 * value))

    red, green, blue = map(encoded, _linear(lab))
    return red, green, blue


def _lab_of(rgb: RGB) -> _OKLab:
    def decoded(value: int) -> float:
        share = value / 255
        return ((share + 0.055) / 1.055) ** 2.4 if share > 0.04045 else share / 12.92

    red, green, blue = map(decoded, rgb)
    long, medium, short = (
        weighted ** (1 / 3)
        for weighted in (
            0.41222 * red + 0.53633 * green + 0.05145 * blue,
            0.21190 * red + 0.68070 * green + 0.10740 * blue,
            0.08830 * red + 0.28172 * green + 0.62998 * blue,
        )
    )
    return (
        0.21045 * long + 0.79362 * medium - 0.00407 * short,
        1.97800 * long - 2.42859 * medium + 0.45059 * short,
        0.02590 * long + 0.78277 * medium - 0.80868 * short,
    )
