"""The modules with their variants, small inputs for them, and naive parts that several of their oracles share.

Naive parts work in float64 on one sample at a time, (channels, height, width), position by position; of the modules they read
nothing but weights.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from attnbench.method.backbone import Context, Encoded, wants_context
from attnbench_baselines.adain import AdaIN
from attnbench_baselines.cmft import CMFT
from attnbench_baselines.cocosnet import CoCosNet
from attnbench_baselines.linear import LinearAttention
from attnbench_baselines.mha import MHA
from attnbench_baselines.none import NoReference
from attnbench_baselines.oracle import Oracle
from attnbench_baselines.scft import SCFT
from attnbench_baselines.sga import SGA
from attnbench_baselines.spade import SPADE
from attnbench_baselines.unite import UNITE

C = 6
SGA_OPTIONS = [
    {},
    {"stop_gradient": False},
    {"double_norm": False},
    {"self_attention": False},
    {"exact_norm": True},
]
SCFT_OPTIONS = [{}, {"projections": False}, {"stop_gradient": True}, {"stop_gradient": True, "projections": False}]
SPADE_OPTIONS = [
    {},
    {"condition": "sketch"},
    {"variant": "resblk"},
    {"norm": "instance"},
    {"norm": "pono"},
    {"condition": "sketch", "variant": "resblk", "norm": "pono"},
]
COCOSNET_OPTIONS = [
    {},
    {"match_kernel": 1},
    {"tau": 0.1},
    {"pre_blocks": 1},
    {"inject": "residual"},
    {"match_kernel": 1, "inject": "residual"},
    {"stop_gradient": True},
]
UNITE_OPTIONS = [{}, {"cost": "consistent"}, {"reach": 0.5}, {"cost": "consistent", "reach": 0.5}, {"stop_gradient": True}]
CMFT_OPTIONS = [
    {},
    {"normalize": "center_l2"},
    {"normalize": "center_l2", "tau": 0.1},
    {"fuse": "concat1x1"},
    {"key_source": "reference_sketch"},
    {"levels": 2},
    {"levels": 2, "key_source": "reference_sketch", "normalize": "center_l2", "fuse": "concat1x1"},
    {"stop_gradient": True},
]
LINEAR_OPTIONS = [{}, {"stop_gradient": True}]
MHA_OPTIONS = [  # eight heads, the default, are wider together than six channels
    {},
    {"heads": 2},
    {"heads": 2, "qk_norm": False},
    {"heads": 2, "ffn": 0},
    {"heads": 2, "layers": 2},
    {"heads": 2, "stop_gradient": True},
    {"heads": 2, "fused": False},
]
OPTIONS = {
    SGA: SGA_OPTIONS,
    SCFT: SCFT_OPTIONS,
    SPADE: SPADE_OPTIONS,
    CoCosNet: COCOSNET_OPTIONS,
    UNITE: UNITE_OPTIONS,
    CMFT: CMFT_OPTIONS,
    NoReference: [{}],
    AdaIN: [{}],
    LinearAttention: LINEAR_OPTIONS,
    MHA: MHA_OPTIONS,
    Oracle: [{}],
}


def name_of(module, options):
    return " ".join([module.__name__, *(f"{key}={value}" for key, value in options.items())])


VARIANTS = [(module, options) for module, all_options in OPTIONS.items() for options in all_options]


def cases(variants):
    """Parametrise a test over `module` and `options`."""
    return pytest.mark.parametrize(("module", "options"), [pytest.param(*one, id=name_of(*one)) for one in variants])


def with_variants(*modules):
    """`cases` of all variants of these modules, or of all modules."""
    return cases([one for one in VARIANTS if not modules or one[0] in modules])


def build(module, options, dtype=torch.float64):
    torch.manual_seed(0)
    return module(C, **options).to(dtype)


def maps(height=3, width=4, batch=2, dtype=torch.float64):
    source = torch.Generator().manual_seed(1)
    return [torch.randn(batch, C, height, width, generator=source, dtype=dtype) for _ in range(2)]


def run(module, f_s, f_r):
    """The module's result, with a context where it takes one."""
    if not wants_context(getattr(module, "_orig_mod", module)):  # a compiled module's own signature says nothing
        return module(f_s, f_r)
    context = Context(encoded(f_s), encoded(f_r), encode_drawing=lambda image: encoded(image.sin()), shows=places(f_r))
    return module(f_s, f_r, context=context)


def places(feature, factor=4):
    """What an image, `factor` times as large as the feature, might show of its sketch: (B, H, W, 2), some of it outside.

    Each sample's is the same, whichever others are beside it.
    """
    batch, _, height, width = feature.shape
    shown = 0.5 + 0.6 * pattern((1, factor * height, factor * width, 2), phase=7)
    return shown.expand(batch, -1, -1, -1)


def encoded(feature):
    """What an encoder of two levels, one and two channels wide, might have been given to make this feature of C channels.

    Its tensors have gradients of their own: none of them reaches `feature`.
    """
    feature = feature.detach().requires_grad_()
    layers = [layer.detach().requires_grad_() for layer in feature.split([1, 1, 2, 2], 1)]
    fine = [F.interpolate(layer, scale_factor=2).detach().requires_grad_() for layer in layers[:2]]
    return Encoded(feature, feature, [*fine, *layers[2:]])


def weight_like(x):
    """What results are weighted with, so that the gradient differs from entry to entry."""
    return torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)


def pattern(shape, phase=0, dtype=torch.float64):
    """Numbers in (-1, 1) by a formula in integers: the same on every machine and with every version of torch."""
    k = torch.arange(math.prod(shape))
    return (2 * ((31 * k * k + 7 * k + 101 * phase + 5) % 1009) / 1009 - 1).to(dtype).view(shape)


@torch.no_grad()
def fill(module):
    """Give every parameter and buffer values by a formula, of a fresh layer's size."""
    for phase, (name, tensor) in enumerate(module.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        values = pattern(tensor.shape, phase)
        if name.endswith("running_var"):
            values = 1 + values / 2
        elif name.endswith(("_u", "_v")):  # of spectral norm
            values = values / values.norm()
        elif tensor.dim() > 1:
            values = values / math.sqrt(tensor[0].numel())
        tensor.copy_(values)
    return module


def positions(height, width):
    return [(y, x) for y in range(height) for x in range(width)]


def softmax(logits):
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def naive_conv(image, conv, *, weight=None, reflect=False):
    """A convolution of stride 1 that keeps the size, (D, h, w) -> (D', h, w): at each position, its window times the weight."""
    weight = conv.weight if weight is None else weight
    kernel = weight.shape[-1]
    around = kernel // 2
    padded = F.pad(image[None], (around,) * 4, mode="reflect" if reflect else "constant")[0]
    result = torch.zeros(weight.shape[0], *image.shape[1:], dtype=image.dtype)
    for y, x in positions(*image.shape[1:]):
        window = padded[:, y : y + kernel, x : x + kernel]
        result[:, y, x] = weight.flatten(1) @ window.flatten() + conv.bias
    return result


def naive_pono(image):
    """Zero mean and unit (unbiased) variance over the channels of each position."""
    result = torch.zeros_like(image)
    for y, x in positions(*image.shape[1:]):
        vector = image[:, y, x]
        centred = vector - vector.sum() / len(vector)
        result[:, y, x] = centred / math.sqrt(float((centred**2).sum()) / (len(vector) - 1) + 1e-5)
    return result


def naive_instance_norm(image):
    centred = image - image.mean((1, 2), keepdim=True)
    return centred / ((centred**2).mean((1, 2), keepdim=True) + 1e-5).sqrt()


def naive_modulation(modulation, normalized, hidden):
    return normalized * (1 + naive_conv(hidden, modulation.gamma)) + naive_conv(hidden, modulation.beta)


def naive_vectors(image, kernel):
    """A unit vector a position, row by row: its zero-padded neighbourhood, minus the vector's mean, over the norm or 1e-6."""
    depth, height, width = image.shape
    around = kernel // 2
    vectors = []
    for y, x in positions(height, width):
        vector = torch.zeros(kernel, kernel, depth, dtype=image.dtype)
        for dy, dx in positions(kernel, kernel):
            there = (y + dy - around, x + dx - around)
            if 0 <= there[0] < height and 0 <= there[1] < width:
                vector[dy, dx] = image[:, *there]
        vector = vector.flatten() - vector.mean()
        vectors.append(vector / max(float(vector.norm()), 1e-6))
    return vectors


def naive_attention(queries, keys, tau=1.0):
    """softmax_j(query_i . key_j / tau), (n, m), of lists of vectors."""
    rows = [softmax([float(query @ key) / tau for key in keys]) for query in queries]
    return torch.tensor(rows, dtype=torch.float64)


def naive_warp(attention, image, size):
    """sum_j A_ij image_j, (C, *size), of (n, m) and (C, h', w') with m = h' w'."""
    result = torch.zeros(len(image), *size, dtype=image.dtype)
    for i, (y, x) in enumerate(positions(*size)):
        for j, there in enumerate(positions(*image.shape[1:])):
            result[:, y, x] += attention[i, j] * image[:, *there]
    return result


def tokens(image):
    """The vector of each position, row by row."""
    return [image[:, y, x] for y, x in positions(*image.shape[1:])]
