"""A module under check: found, built, fed and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import plugins
from attnbench.cells.variant import parse_variant
from attnbench.contract.import_paths import imported
from attnbench.data.warp import middles
from attnbench.devices import pick_device
from attnbench.errors import UserError
from attnbench.method.backbone import Context, Encoded, feature_channels, wants_context
from attnbench.plugins import check_names, options_of

Constructor = Callable[..., Any]

INPUTS = ("sketch", "reference")


@dataclass(frozen=True)
class Subject:
    """A module under check: how to build it, and the feature maps to feed it."""

    name: str
    construct: Constructor
    options: Mapping[str, Any]
    channels: int
    size: int
    device: torch.device

    def build(self, seed: int = 0) -> nn.Module:
        """A fresh module in train mode, its weights a function of the seed."""
        torch.manual_seed(seed)
        module = self.construct(self.channels, **self.options)
        if not isinstance(module, nn.Module):
            raise TypeError(f"the constructor returns a {type(module).__name__}, not a torch.nn.Module")
        return (InContext(module) if wants_context(module) else module).to(self.device)

    def maps(self, height: int = 0, width: int = 0, *, batch: int = 2) -> list[Tensor]:
        """Two feature maps, (batch, channels, height, width), standard normal; 0 means `size`. Calls give equal values in
        new memory, so that a module that writes into its inputs spoils no other comparison."""
        source = torch.Generator().manual_seed(0)
        shape = (batch, self.channels, height or self.size, width or self.size)
        return [torch.randn(shape, generator=source).to(self.device) for _ in INPUTS]


def find_subject(
    module: str | Constructor,
    channels: int,
    *,
    size: int,
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """Look up the module, and refuse options that it does not have; arguments and errors as for `check`."""
    if isinstance(module, str):
        name, construct, given = _find(module)
    elif callable(module):
        name, construct, given = getattr(module, "__name__", repr(module)), module, {}
    else:
        raise UserError(f"a module is a class, a factory or a name, not a {type(module).__name__}")
    given = {**given, **(options or {})}
    check_names(given, options_of(construct, name), f"module '{name}'")
    return Subject(name, construct, given, channels, size, computing(device))


def computing(device: str | torch.device | None) -> torch.device:
    """The device of that name, or the first GPU, or else the CPU.

    Raises:
        UserError: there is none, or it does not compute.
    """
    if str(device) == "meta":
        raise UserError("device 'meta' has shapes but no values: name a device that computes")
    return pick_device(str(device) if device is not None else None)


def _find(text: str) -> tuple[str, Constructor, dict[str, Any]]:
    """Name, constructor and options of `sga:stop_gradient=false` or `my_package:MyAttention:heads=4`."""
    if (found := imported(text, plugins.MODULES, "module")) is not None:
        return text, *found
    variant = parse_variant(text)
    return text, plugins.find(plugins.MODULES, variant.module).load(), dict(variant.given)


class InContext(nn.Module):
    """Wraps a module that takes a `context`, and passes it one that is made from its inputs."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.no_gradient = getattr(module, "no_gradient", ())
        self.prepared: Context | None = None

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        out: Tensor = self.module(sketch, reference, context=self.prepared or _context(sketch, reference))
        return out

    def prepare(self, sketch: Tensor, reference: Tensor) -> None:
        """Make the context of these inputs now, so that its cost is not counted as the module's."""
        self.prepared = _context(sketch, reference)


def _context(sketch: Tensor, reference: Tensor) -> Context:
    drawing, other = _encoded(reference.flip(-1), 1), _encoded(reference, 3)
    shows = middles(*other.image.shape[-2:]) + 0.125  # as of a reference that is the sketch's original, moved by an eighth
    shows = shows.to(reference.device, torch.float32).expand(len(reference), -1, -1, -1)
    return Context(_encoded(sketch, 1), other, encode_drawing=lambda image: drawing, shows=shows)


def _encoded(feature: Tensor, image_channels: int) -> Encoded:
    """An encoding that ends in `feature`, as of an encoder with five levels, or as many as there are channels for.

    Detached: gradients at the inputs are those of f_s and f_r alone.
    """
    feature = feature.detach()
    channels = feature.shape[1]
    levels = max(level for level in range(6) if feature_channels(1, level) <= channels)
    finest = 2.0 ** max(levels - 1, 0)
    image = F.interpolate(feature[:, :1], scale_factor=finest).tanh().expand(-1, image_channels, -1, -1)
    if levels == 0:
        return Encoded(image, feature, [feature])
    width = channels // feature_channels(1, levels)
    widths = [width * 2**level for level in range(levels) for _ in range(2)]
    widths[-1] += channels - sum(widths)
    scales = [finest / 2**level for level in range(levels) for _ in range(2)]
    layers = [F.interpolate(part, scale_factor=scale) for part, scale in zip(feature.split(widths, 1), scales, strict=True)]
    return Encoded(image, feature, layers)


def call(module: Callable[..., Any], sketch: Tensor, reference: Tensor) -> Tensor:
    out = module(sketch, reference)
    if not isinstance(out, Tensor):
        raise TypeError(f"forward returns a {type(out).__name__}, not one tensor")
    return out


def objective(out: Tensor) -> Tensor:
    """A scalar whose gradient differs from entry to entry; the gradient of a plain sum would vanish behind a normalisation."""
    out = out.to(torch.promote_types(out.dtype, torch.float32))
    return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)).sum()


def forward_backward(module: Callable[..., Any], given: Iterable[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """The output, and the gradients at the inputs. The module gets clones of leaves, since in a network it gets activations."""
    leaves = [x.detach().requires_grad_() for x in given]
    out = call(module, *(leaf.clone() for leaf in leaves))
    if out.requires_grad:
        objective(out).backward()
    return out.detach(), [leaf.grad for leaf in leaves]
