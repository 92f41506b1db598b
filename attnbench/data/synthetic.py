"""The built-in data set `synthetic`: cartoon heads drawn by this file, so that a demo needs no download.

Each head is a list of polygons in layers (background, hair behind, body, face, hair in front), each of which belongs to
one named part. The same list is rendered twice: with a palette, as a picture, and with part numbers, as a part map.
That gives what photographs of artwork cannot: the exact picture that a sketch should become when it takes its colours
from another head (`draw` with that head's palette), and the exact region in which to look for each colour.

Everything is a pure function of its arguments. Shape and colour come from separate random streams, so a head keeps its
shape whatever its colours. Coordinates have y pointing down. In head units the face is centred on the origin and about
1 in radius: eyes at y = 0.24, chin near 1.15, top of the hair at -1.44, shoulders below 2.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from math import pi
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

RGB: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Corner: TypeAlias = tuple[float, float, float]  # x, y and how far the edge that starts here bends outwards
Points: TypeAlias = npt.NDArray[np.float64]  # (n, 2): x, y

PARTS: tuple[str, ...] = ("background", "clothes", "skin", "hair", "eyes")
BACKGROUND, CLOTHES, SKIN, HAIR, EYES = range(len(PARTS))

MIN_SIZE = 16
GEOMETRY_STREAM, PALETTE_STREAM = 1, 2
LINE_WIDTH = 0.0085  # of the picture's width
MIN_LINE_PIXELS = 0.8  # thinner lines fade into the fills of small pictures
MIN_NOTCHED_LINE = 4  # canvas pixels; wider lines show a notch where they meet at an angle, to be filled by a dot
INK: RGB = (44, 32, 48)
SHADOW: RGB = (84, 48, 120)  # shade is pulled towards violet, which looks livelier than towards black
WHITE: RGB = (255, 255, 255)
PINK: RGB = (240, 96, 112)
SKIN_TONES = np.array([(255, 228, 208), (252, 212, 182), (238, 190, 152), (212, 158, 120), (172, 120, 90)], float)
SIDES = (-1, 1)  # left and right
MIRROR: Points = np.array([-1.0, 1.0])
CIRCLE: Points = np.column_stack([np.cos(np.linspace(0, 2 * pi, 48)), np.sin(np.linspace(0, 2 * pi, 48))])
STEP = np.linspace(0, 1, 12, endpoint=False)  # along each span of a curve; below, what each knot weighs there
PARABOLA = np.column_stack([(1 - STEP) ** 2, 2 * STEP * (1 - STEP), STEP**2])
CATMULL_ROM = np.vander(STEP, 4) @ np.array([(-1, 3, -3, 1), (2, -5, 4, -1), (-1, 0, 1, 0), (0, 2, 0, 0)]) / 2


@dataclass(frozen=True)
class Palette:
    """The colour of each part, one RGB triple of 0..255 per name in `PARTS`."""

    background: RGB
    clothes: RGB
    skin: RGB
    hair: RGB
    eyes: RGB


@dataclass(frozen=True)
class Shape:
    """A closed polygon in its part's colour, pulled towards `tint` by `amount`; `inside` is painted on it, clipped."""

    part: int
    outline: Points
    tint: RGB = SHADOW
    amount: float = 0.0
    line: float = 1.0  # width of the dark outline, relative to the usual one
    inside: tuple["Shape", ...] = ()


def palette(seed: int, index: int) -> Palette:
    """The colours of head `index`; ValueError if `seed` or `index` is negative."""
    rng = _stream(seed, index, PALETTE_STREAM)
    backdrop = rng.uniform(110, 360)  # degrees; the rest of the circle is pink to peach, which swallows faces
    hair, clothes, eyes = backdrop + rng.permutation([90, 180, 270]) + rng.uniform(-15, 15, 3)
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    return Palette(
        background=_oklch(rng.uniform(0.80, 0.90), rng.uniform(0.08, 0.12), backdrop),
        clothes=_oklch(_lit(rng.uniform(0.58, 0.74), clothes), rng.uniform(0.14, 0.20), clothes),
        skin=_rgb(float(np.interp(tone, range(len(SKIN_TONES)), channel)) for channel in SKIN_TONES.T),
        hair=_oklch(_lit(rng.uniform(0.60, 0.78), hair), rng.uniform(0.13, 0.19), hair),
        eyes=_oklch(_lit(rng.uniform(0.56, 0.68), eyes), rng.uniform(0.15, 0.20), eyes),
    )


def draw(seed: int, index: int, size: int, *, colors: Palette | None = None) -> Image.Image:
    """Head `index` as an RGB picture of `size` x `size`, in its own colours or in `colors`.

    ValueError if `size` is under 16 or `seed` or `index` is negative.
    """
    base: tuple[RGB, ...] = astuple(colors or palette(seed, index))

    def color(shape: Shape) -> RGB:
        if shape.amount == 0:
            return base[shape.part]
        pairs = zip(base[shape.part], shape.tint, strict=True)
        return _rgb(plain + shape.amount * (tint - plain) for plain, tint in pairs)

    factor = 4 if size <= 128 else 2
    line = max(LINE_WIDTH * size, MIN_LINE_PIXELS)
    return _render(_scene(seed, index), "RGB", size, factor, color, line).reduce(factor)


def part_map(seed: int, index: int, size: int) -> npt.NDArray[np.uint8]:
    """The part that each pixel of `draw` shows: (size, size), indices into `PARTS`; a line counts as what it bounds.

    The iris and pupil are `eyes`, the white around them is `skin`, eyebrows are `hair`, bows and hats are `clothes`.
    ValueError if `size` is under 16 or `seed` or `index` is negative.
    """
    rendered = _render(_scene(seed, index), "L", size, 3, lambda shape: shape.part, line=0)
    return np.asarray(rendered)[1::3, 1::3].copy()  # the middle of each pixel


# Random numbers and colours


def _stream(seed: int, index: int, stream: int) -> np.random.Generator:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    return np.random.default_rng([seed, index, stream])


def _rgb(values: Iterable[float]) -> RGB:
    red, green, blue = (round(value) for value in values)
    return red, green, blue


def _lit(lightness: float, hue: float) -> float:
    """Yellow gets more light than other hues: without it, it looks like mud."""
    return lightness + 0.12 * max(0.0, float(np.cos(np.radians(hue - 100)))) ** 3


def _oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """OKLCH, in which equal steps of hue look equally different, to sRGB; greyer where sRGB has no such colour."""
    to_lms = np.array([(1, 0.39634, 0.21580), (1, -0.10556, -0.06385), (1, -0.08948, -1.29149)])
    to_rgb = np.array([(4.07674, -3.30771, 0.23097), (-1.26844, 2.60976, -0.34132), (-0.00420, -0.70342, 1.70761)])
    while True:
        lab = np.array([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))])
        linear = to_rgb @ (to_lms @ lab) ** 3
        if linear.min() >= 0 and linear.max() <= 1:
            return _rgb((255 * np.where(linear > 0.0031, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)).tolist())
        chroma *= 0.95


# Rendering


@dataclass(frozen=True)
class _Brush:
    """What turns shapes into pixels: the value that fills a shape, canvas pixels per unit, line width in them."""

    fill: Callable[[Shape], RGB | int]
    scale: int
    line: float

    def paint(self, canvas: Image.Image, shapes: Iterable[Shape], origin: Points) -> None:
        """Paint `shapes` on a canvas whose upper left corner is at pixel `origin` of the whole picture."""
        pen = ImageDraw.Draw(canvas)
        for shape in shapes:
            points = shape.outline * self.scale - origin
            pen.polygon(points.ravel().tolist(), fill=self.fill(shape))
            if shape.inside:
                self._paint_inside(canvas, shape.inside, points, origin)
            if shape.line * self.line > 0:
                _trace(pen, points, shape.line * self.line)

    def _paint_inside(self, canvas: Image.Image, shapes: Iterable[Shape], clip: Points, origin: Points) -> None:
        low = np.clip(clip.min(0), 0, canvas.size).astype(int)
        high = np.clip(clip.max(0) + 2, 0, canvas.size).astype(int)
        left, top, right, bottom = (int(value) for value in (*low, *high))
        layer, mask = canvas.crop((left, top, right, bottom)), Image.new("L", (right - left, bottom - top))
        self.paint(layer, shapes, origin + low)
        ImageDraw.Draw(mask).polygon((clip - low).ravel().tolist(), fill=255)
        canvas.paste(layer, (left, top), mask)


def _render(
    shapes: Iterable[Shape], mode: str, size: int, factor: int, fill: Callable[[Shape], RGB | int], line: float
) -> Image.Image:
    """Paint shapes in unit coordinates on a canvas `factor` times as wide as `size`; `line` is in final pixels."""
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE}, got {size}")
    canvas, brush = Image.new(mode, (size * factor, size * factor)), _Brush(fill, size * factor, line * factor)
    brush.paint(canvas, shapes, np.zeros(2))
    return canvas


def _trace(pen: ImageDraw.ImageDraw, points: Points, width: float) -> None:
    loop = np.concatenate([points, points[:2]])
    pen.line(loop[:-1].ravel().tolist(), fill=INK, width=max(1, round(width)))
    if width < MIN_NOTCHED_LINE:
        return
    step = loop[1:] - loop[:-1]
    length = np.sqrt((step * step).sum(1))
    sharp = (step[1:] * step[:-1]).sum(1) < 0.9 * length[1:] * length[:-1]
    for x, y in loop[1:-1][sharp].tolist():
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=INK)


# Curves and shapes


def _bent(*corners: Corner, closed: bool = True) -> Points:
    """A path through `corners`, clockwise; each edge is a parabola that bends outwards by a fraction of its length."""
    rows = np.array(corners, float)
    start, bend = rows[:, :2], rows[:, 2:]
    end = np.concatenate([start[1:], start[:1]])
    across = (start - end)[:, ::-1] * MIRROR
    control = (start + end) / 2 + 2 * bend * across
    path: Points = np.concatenate(PARABOLA @ np.stack([start, control, end], 1))
    return path if closed else path[: 1 - len(STEP)]


def _stroke(start: Point, end: Point, bend: float, width: float) -> Points:
    """A stroke that tapers towards its ends: two arcs between the same points."""
    return _bent((*start, bend), (*end, width - bend))


def _smooth(*knots: Point) -> Points:
    """The closed Catmull-Rom curve through `knots`."""
    points = np.array(knots, float)
    spans = np.stack([np.concatenate([points[shift:], points[:shift]]) for shift in (-1, 0, 1, 2)], 1)
    curve: Points = np.concatenate(CATMULL_ROM @ spans)
    return curve


def _ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    points: Points = CIRCLE * np.array([rx, ry]) + np.array([x, y])
    return points


def _both(points: Points) -> list[Points]:
    return [points, points * MIRROR]


def _flat(part: int, outlines: Iterable[Points], tint: RGB = SHADOW, amount: float = 0, line: float = 0) -> list[Shape]:
    return [Shape(part, outline, tint, amount, line) for outline in outlines]


def _shaded(part: int, outline: Points, *inside: Shape, depth: float = 0.1) -> Shape:
    """A shape lit from the upper left: what its own copy, moved towards the light, leaves uncovered is in shade."""
    lit = Shape(part, outline - np.array([0.7 * depth, depth]), line=0)
    return Shape(part, outline, SHADOW, 0.28, inside=(lit, *inside))


def _moved(shape: Shape, matrix: Points, offset: Points) -> Shape:
    inside = tuple(_moved(inner, matrix, offset) for inner in shape.inside)
    return replace(shape, outline=shape.outline @ matrix.T + offset, inside=inside)


# The head


@lru_cache(maxsize=32)  # a head is often wanted again at once: its part map, its recolouring
def _scene(seed: int, index: int) -> tuple[Shape, ...]:
    """All shapes of one head, from back to front, in unit coordinates (0 to 1 across the picture)."""
    rng = _stream(seed, index, GEOMETRY_STREAM)
    scale, tilt, turn = rng.uniform(0.215, 0.26), rng.uniform(-0.17, 0.17), rng.uniform(-0.2, 0.2)
    centre = np.array([rng.uniform(0.45, 0.55), rng.uniform(0.46, 0.50)])
    tilted = scale * np.array([(np.cos(tilt), -np.sin(tilt)), (np.sin(tilt), np.cos(tilt))])
    behind, front = _hair(rng)
    face = _face(rng, turn, front[0].outline)
    return (
        *_backdrop(rng),
        *(_moved(shape, tilted, centre) for shape in behind),
        *(_moved(shape, scale * np.eye(2), centre) for shape in _body(rng)),
        *(_moved(shape, tilted, centre) for shape in face + front),
    )


def _backdrop(rng: np.random.Generator) -> list[Shape]:
    """A wall, plain or with a pale motif; its coordinates are already those of the picture."""
    wall = Shape(BACKGROUND, np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float), line=0)
    return [wall, *_flat(BACKGROUND, _motif(rng), WHITE, 0.35)]


def _motif(rng: np.random.Generator) -> list[Points]:
    style = str(rng.choice(["plain", "moon", "hills", "stripes", "dots", "stars"]))
    x, y, step = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.5), rng.uniform(0.18, 0.26)
    if style == "plain":
        return []
    if style == "moon":
        return [_ellipse(x, y, 0.36, 0.36)]
    if style == "hills":
        return [_bent((-0.1, y + 0.2, 0.1), (0.6, y + 0.3, 0.15), (1.1, y, 0), (1.1, 1.1, 0), (-0.1, 1.1, 0))]
    if style == "stripes":
        return [np.array([(u, 0), (u + step / 2, 0), (u + step / 2 - 1, 1), (u - 1, 1)]) for u in np.arange(0, 2, step)]
    star = _bent((0, -0.05, -0.2), (0.04, 0, -0.2), (0, 0.05, -0.2), (-0.04, 0, -0.2))
    spot = star if style == "stars" else CIRCLE * step / 6
    rows = range(round(1 / step) + 1)
    return [spot + np.array([i + j % 2 / 2, 0.4 + 0.8 * j]) * step for j in rows for i in rows]


def _body(rng: np.random.Generator) -> list[Shape]:
    """Neck and clothes; only the neckline and what lies just below it is in the picture."""
    style = str(rng.choice(["turtleneck", "shirt", "sailor", "round", "trimmed", "hood"]))
    dip = {"turtleneck": 1.45, "shirt": 1.9, "sailor": 2.0, "round": 1.55, "trimmed": 1.75, "hood": 1.6}[style]
    width = rng.uniform(1.25, 1.6)
    neck = _bent((-0.32, 0.5, 0), (0.32, 0.5, 0), (0.34, 1.35, -0.1), (0.7, 2.5, 0), (-0.7, 2.5, 0), (-0.34, 1.35, -0.1))
    neckline: list[Corner] = [(-0.42, 1.35, -0.08), (0, dip, -0.08), (0.42, 1.35, 0.12)]
    right: list[Corner] = [(width, 1.9, 0.05), (width + 0.25, 3.5, 0)]
    torso = _bent((-width - 0.25, 3.5, 0.05), (-width, 1.9, 0.12), *neckline, *right)
    sleeves = _both(_stroke((0.72 * width, 2.1), (0.78 * width, 3.0), 0.05, 0.02))
    marks = [*_pattern(rng, dip), *_flat(CLOTHES, sleeves, INK, 1, line=1)]
    under_chin = Shape(SKIN, _ellipse(0.05, 0.75, 0.8, 0.62), PINK, 0.3, line=0)
    hood = [_shaded(CLOTHES, _ellipse(0, 1.35, 0.95, 0.52))] if style == "hood" else []
    body = [*hood, Shape(SKIN, neck, inside=(under_chin,)), _shaded(CLOTHES, torso, *marks, depth=0.16)]
    return body + _collar(style, neckline)


def _pattern(rng: np.random.Generator, dip: float) -> list[Shape]:
    bands = [_bent((-2, y, -0.02), (2, y, 0), (2, y + 0.12, 0.02), (-2, y + 0.12, 0)) for y in (1.6, 1.9, 2.2, 2.5)]
    buttons = [_ellipse(0, dip + y, 0.06, 0.06) for y in (0.22, 0.46)]
    patterns = [[], [], _flat(CLOTHES, bands, WHITE, 0.4), _flat(CLOTHES, buttons, WHITE, 0.6, line=1)]
    return patterns[rng.integers(len(patterns))]


def _collar(style: str, neckline: Sequence[Corner]) -> list[Shape]:
    dip = neckline[1][1]
    if style == "turtleneck":
        return [_shaded(CLOTHES, _bent((-0.38, 1, -0.06), (0.38, 1, 0.05), (0.46, 1.5, 0.12), (-0.46, 1.5, 0.05)))]
    if style == "trimmed":
        trim = _bent(*neckline[:2], (0.42, 1.35, 0), (0.5, 1.32, 0.08), (0, dip + 0.14, 0.08), (-0.5, 1.32, 0))
        return [Shape(CLOTHES, trim, WHITE, 0.6)]
    if style == "hood":
        return _flat(CLOTHES, _both(_stroke((0.2, 1.56), (0.22, 2), 0.07, 0.14)), WHITE, 0.7, line=1)
    flaps = _both(np.array([(-0.42, 1.2), (0, dip), (-0.34, dip + 0.26), (-0.78, 1.47)]))
    if style == "shirt":
        return _flat(CLOTHES, flaps, WHITE, 0.7, line=1)
    if style == "sailor":
        return _flat(CLOTHES, flaps, WHITE, 0.4, line=1) + _bow(0, dip + 0.05, 0.34)
    return []


def _bow(x: float, y: float, size: float) -> list[Shape]:
    loops = _both(_bent((0, 0, 0.1), (-1, 0.55, 0.15), (-1, -0.6, 0.1)) * size)
    wings = [_shaded(CLOTHES, loop + np.array([x, y]), depth=0.06) for loop in loops]
    return [*wings, Shape(CLOTHES, _ellipse(x, y, 0.28 * size, 0.3 * size))]


def _face(rng: np.random.Generator, turn: float, fringe: Points) -> list[Shape]:
    """Ears, face, nose, mouth and eyes of a head turned by `turn` (about -0.2 to 0.2), in the shade of `fringe`."""
    jaw, chin = rng.uniform(0.5, 0.68), rng.uniform(1.08, 1.25)
    right, left = [(0.98, -0.1), (0.9, 0.45), (jaw, 0.9)], [(-jaw, 0.9), (-0.9, 0.45), (-0.98, -0.1)]
    contour = _smooth((0, -1.1), (0.8, -0.8), *right, (0.3 * turn, chin), *left, (-0.8, -0.8))
    blush = _flat(SKIN, (_ellipse(turn + 0.58 * side, 0.62, 0.17, 0.09) for side in SIDES), PINK, 0.35)
    cast = Shape(SKIN, fringe + np.array([0.03, 0.1]), PINK, 0.22, line=0)
    ears = [_shaded(SKIN, ear, depth=0.06) for ear in _both(_ellipse(0.98, 0.2, 0.16, 0.24))]
    nose = Shape(SKIN, _stroke((1.2 * turn - 0.03, 0.56), (1.2 * turn + 0.05, 0.56), -0.2, 0.1), INK, 0.7, line=0.4)
    return [*ears, Shape(SKIN, contour, inside=(*blush, cast)), nose, _mouth(rng, turn), *_eyes(rng, turn)]


def _mouth(rng: np.random.Generator, turn: float) -> Shape:
    x, y, half = 1.1 * turn, rng.uniform(0.78, 0.84), rng.uniform(0.1, 0.2)
    mouths = [
        Shape(SKIN, _stroke((x - half, y), (x + half, y), -0.2, 0.06), INK, 0.9, line=0.5),
        Shape(SKIN, _stroke((x - half, y), (x + half, y - 0.03), -0.04, 0.06), INK, 0.9, line=0.5),
        Shape(SKIN, _bent((x - half, y, -0.05), (x + half, y, 0.45)), PINK, 0.8, line=0.8),
        Shape(SKIN, _ellipse(x, y + 0.02, 0.07, 0.08), PINK, 0.8, line=0.8),
    ]
    return mouths[rng.integers(len(mouths))]


def _eyes(rng: np.random.Generator, turn: float) -> list[Shape]:
    width, height, apart = rng.uniform(0.25, 0.29), rng.uniform(0.25, 0.31), rng.uniform(0.44, 0.49)
    slant, gaze = rng.uniform(-0.08, 0.1), rng.uniform(-0.04, 0.04)
    lift, arch = rng.uniform(0, 0.1), rng.uniform(-0.08, 0.08)
    shapes: list[Shape] = []
    for side in SIDES:
        w, h = width * (1 - 0.6 * max(0.0, turn * side)), height  # the far eye is narrower
        place, mirror = np.array([turn + side * apart, 0.24]), np.array([side, 1])
        lid = [(-w, 0.06), (-0.55 * w, -0.8 * h), (0.4 * w, -h), (w, -0.25 * h - slant)]
        white = _smooth(*lid, (0.7 * w, 0.75 * h), (0, h), (-0.7 * w, 0.75 * h)) * mirror + place
        lash = _smooth(*lid, (1.25 * w, -0.4 * h - slant), (0.5 * w, -1.25 * h), (-0.6 * w, -1.02 * h)) * mirror + place
        brow = _stroke((-0.9 * w, -0.45 - lift - arch), (w, -0.45 - lift + arch), 0.14, 0.1) * mirror + place
        iris = _iris(place[0] + gaze, place[1] + 0.02, 0.72 * w, 0.95 * h)
        shapes.append(Shape(SKIN, white, WHITE, 0.95, line=0.5, inside=(iris,)))
        shapes += [Shape(SKIN, lash, INK, 1, line=0.3), Shape(HAIR, brow, INK, 0.35, line=0.5)]
    return shapes


def _iris(x: float, y: float, rx: float, ry: float) -> Shape:
    lid_shade = Shape(EYES, _ellipse(x, y - 1.1 * ry, 1.2 * rx, 0.6 * ry), SHADOW, 0.45, line=0)
    pupil = Shape(EYES, _ellipse(x, y + 0.05 * ry, 0.32 * rx, 0.38 * ry), INK, 0.85, line=0)
    gleam = Shape(EYES, _ellipse(x, y + 0.75 * ry, 0.45 * rx, 0.16 * ry), WHITE, 0.4, line=0)
    glint = Shape(EYES, _ellipse(x - 0.4 * rx, y - 0.4 * ry, 0.3 * rx, 0.26 * ry), WHITE, 1, line=0)
    return Shape(EYES, _ellipse(x, y, rx, ry), line=0.6, inside=(lid_shade, pupil, gleam, glint))


def _hair(rng: np.random.Generator) -> tuple[list[Shape], list[Shape]]:
    """The shapes behind the head and those in front of the face; the first of the latter is the fringe."""
    loose = rng.random() < 0.4
    behind = [_curtain(rng), *([] if loose else _tied(rng))]
    fringe = _fringe(rng)
    worn = _worn(rng, hats=loose)  # a hat has no room beside tied hair
    if not worn and rng.random() < 0.6:
        band = Shape(CLOTHES, _bent((-1.25, -0.3, 0.42), (1.25, -0.3, -0.34)))
        fringe = replace(fringe, inside=(*fringe.inside, band))
    return behind, [fringe, *worn]


def _curtain(rng: np.random.Generator) -> Shape:
    """What hangs behind the head: short, to the chin, or past the shoulders."""
    bottom = [0.5, rng.uniform(0.95, 1.4), rng.uniform(2.0, 3.6)][rng.integers(3)]
    half = rng.uniform(1.05, 1.2) + 0.15 * bottom * rng.uniform(0.2, 1)
    outline = _bent((-half, bottom, 0.06), (-1.15, -0.3, 0.2), (0, -1.35, 0.2), (1.15, -0.3, 0.06), (half, bottom, 0.08))
    folds = _both(_stroke((0.9, 0.5), (half - 0.2, bottom - 0.25), -0.03, 0.03)) if bottom > 0.5 else []
    return _shaded(HAIR, outline, *_flat(HAIR, folds, INK, 0.7))


def _tied(rng: np.random.Generator) -> list[Shape]:
    """Twin tails, two buns or one."""
    style, bun = int(rng.integers(3)), rng.uniform(0.34, 0.46)
    if style == 0:
        length, spread = rng.uniform(1.2, 2.2), rng.uniform(0, 0.35)
        tail = _bent((0.85, -0.9, 0.2), (1.6 + spread, -0.1, 0.12), (1.3 + spread, length, 0.02), (1.2, 0.1, -0.1))
        ties = _flat(CLOTHES, _both(_ellipse(1, -0.8, 0.2, 0.2)), line=1)
        return [*(_shaded(HAIR, outline) for outline in _both(tail)), *ties]
    if style == 1:
        return [_shaded(HAIR, outline) for outline in _both(_ellipse(0.9, -1.2, bun, bun))]
    return [_shaded(HAIR, _ellipse(0.1, -1.5, bun, 0.9 * bun)), Shape(CLOTHES, _ellipse(0.1, -1.32, 0.38, 0.14))]


def _worn(rng: np.random.Generator, *, hats: bool) -> list[Shape]:
    """Nothing, a bow, a flower or, if `hats`, a beret or cat's ears."""
    side = float(rng.choice(SIDES))
    petals = [_ellipse(0.8 * side, -0.75, 0.13, 0.13) + 0.17 * CIRCLE[i] for i in (0, 9, 19, 28, 38)]
    flower = [*_flat(CLOTHES, petals, WHITE, 0.3, line=1), Shape(CLOTHES, _ellipse(0.8 * side, -0.75, 0.1, 0.1))]
    beret = _bent((-1, -0.95, 0.3), (0.2, -1.75, 0.2), (1.35, -1.05, 0.3), (1, -0.75, 0.12)) * np.array([side, 1])
    cat_ears = _both(_bent((0.3, -1.15, 0.05), (0.95, -1.85, 0.1), (1.08, -0.75, 0)))
    choices = [[], _bow(0.75 * side, -1.05, 0.42), flower]
    choices += [[_shaded(CLOTHES, beret, depth=0.14)], [_shaded(HAIR, ear) for ear in cat_ears]] if hats else []
    return choices[rng.integers(len(choices))]


def _fringe(rng: np.random.Generator) -> Shape:
    """The cap of hair over the skull with its fringe and the locks beside the cheeks."""
    parting = rng.uniform(-0.45, 0.45)
    edge, roots = _fringe_edge(rng, parting)
    reach = [rng.uniform(0.3, 0.6), rng.uniform(0.8, 1.6)][rng.integers(2)] + rng.uniform(-0.08, 0.08, 2)
    right, left = [(1.18, -0.2, 0.06), (1.0, reach[0], 0.03)], [(-1.0, reach[1], 0.06), (-1.18, -0.2, 0)]
    outline = np.concatenate([_cap(rng), _bent(*right, *edge, *left, closed=False)])
    strands = [_stroke((x, y), (0.75 * x + 0.25 * parting, y - 0.35), 0.08 * np.sign(x), 0.06) for x, y in roots]
    shine = Shape(HAIR, _stroke((-0.7, -0.68), (0.6, -0.75), 0.22, 0.08), WHITE, 0.45, line=0)
    return _shaded(HAIR, outline, shine, *_flat(HAIR, strands, INK, 0.7))


def _fringe_edge(rng: np.random.Generator, parting: float) -> tuple[list[Corner], list[Point]]:
    """The fringe's lower edge, from the right temple to the left one, and where on it strands of hair begin."""
    style = str(rng.choice(["parted", "straight", "jagged", "swept"]))
    if style == "parted":
        return [(0.84, -0.05, 0.1), (parting, -0.95, 0.1), (-0.84, -0.05, 0)], [(parting, -0.95)]
    if style == "straight":
        return [(0.84, -0.16, 0.04), (-0.84, -0.16, 0)], [(-0.5, -0.2), (-0.1, -0.18), (0.3, -0.18)]
    count = 2 * int(rng.integers(3, 6)) + 1
    tip = np.arange(count) % 2 == 1
    x = np.linspace(0.84, -0.84, count)
    slope = 0.0 if style == "jagged" else 0.22 * float(rng.choice(SIDES))
    y = np.where(tip, rng.uniform(-0.19, -0.07, count), -0.42) + slope * x
    x = np.where(tip, 0.83 * x + 0.17 * parting, x)
    edge = [(float(u), float(v), 0.06) for u, v in zip(x, y, strict=True)]
    return edge, [(u, v) for u, v, _ in edge[2:-1:2]]


def _cap(rng: np.random.Generator) -> Points:
    """The outer edge of the hair over the skull, from the left over the top to the right: sleek or tousled."""
    if rng.random() < 0.65:
        return _bent((-1.18, -0.2, 0.207), (0, -1.44, 0.207), (1.18, -0.2, 0), closed=False)
    angle = np.linspace(pi, 2 * pi, 12)
    radius = np.where(np.arange(12) % 2 == 1, rng.uniform(1.3, 1.5, 12), 1.2)
    tufts = zip(radius * np.cos(angle), radius * np.sin(angle) - 0.2, strict=True)
    return _bent(*((float(x), float(y), 0.08) for x, y in tufts), closed=False)
