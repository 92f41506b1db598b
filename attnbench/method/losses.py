"""Losses, as pure functions (paper section 3.2, or the released code where the two differ).

    L_D = |D(I) - 1|^2 + |D(G)|^2
    L_G = w_adv |D(G) - 1|^2 + w_rec |G - I| + w_perc sum_l |phi_l(G) - phi_l(I)| + w_style sum_l |Gram_l(G) - Gram_l(I)|

Bars are means over all elements; phi_l are the activations relu1_2 and relu2_2 of VGG19. Equation 2 of the paper has the
labels of real and generated swapped; this is the least-squares GAN that the code trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import weights
from attnbench.config.recipe import Loss
from attnbench.method.matrix_product import product
from attnbench.method.precision import at_least_float32, no_autocast

Features = Callable[[Tensor], list[Tensor]]


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Least squares: real -> 1, generated -> 0."""
    return _mean_square(real_scores - 1) + _mean_square(fake_scores)


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """The generator's side: generated -> 1."""
    return _mean_square(fake_scores - 1)


def reconstruction_loss(generated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference (eq. 1)."""
    return _mean_difference(generated, target)


def perceptual_loss(generated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of activations, summed over layers (eq. 3)."""
    return torch.stack([_mean_difference(a, b) for a, b in zip(generated, target, strict=True)]).sum()


def style_loss(
    generated: Sequence[Tensor], target: Sequence[Tensor], *, gram: str = "joint", gram_tf32: bool = False
) -> Tensor:
    """Mean absolute difference of Gram matrices, summed over layers (eq. 4). No gradient flows to `target`.

    Args:
        generated, target: activations, (B, c, H, W) per layer.
        gram: `joint`, as in the released code: one matrix over the batch, rows (B c), divided by B c H W. It includes
            products across samples, and the loss falls as 1/B: the style weight 50 is meant for batches of 16.
            `per_sample`: the usual matrix, rows c, divided by c H W.
        gram_tf32: NVIDIA GPUs may round the factors of its products to TF32's ten bits.
    """
    rows = {"joint": lambda x: x.flatten(2).flatten(0, 1), "per_sample": lambda x: x.flatten(2)}[gram]
    layers = []
    for a, b in zip(generated, target, strict=True):
        with no_autocast(a):
            layers.append(_gram_difference(rows(a), rows(b.detach()), gram_tf32).abs().mean())
    return torch.stack(layers).sum()


def _mean_square(x: Tensor) -> Tensor:
    return at_least_float32(x).square().mean()


def _mean_difference(a: Tensor, b: Tensor) -> Tensor:
    return (at_least_float32(a) - at_least_float32(b)).abs().mean()


def _gram_difference(a: Tensor, b: Tensor, allow_tf32: bool) -> Tensor:
    """(a a^T - b b^T) / (M P); (..., M, P), (..., M, P) -> (..., M, M), in at least float32. No gradient flows to `b`.

    Computed as the symmetric part of (a + b)(a - b)^T: one product instead of two, and no large terms cancel.
    """
    with torch.no_grad():
        wide, other = at_least_float32(a), at_least_float32(b)
        total, difference = wide + other, wide - other
    gram: Tensor = _GramDifference.apply(a, total, difference, allow_tf32)
    return gram / (a.shape[-2] * a.shape[-1])


class _GramDifference(torch.autograd.Function):
    """a a^T - b b^T from a, a + b and a - b. For the gradient at a, autograd would make two products of that size;
    (G + G^T) a needs one."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, total: Tensor, difference: Tensor, allow_tf32: bool) -> Tensor:
        ctx.save_for_backward(a)
        ctx.allow_tf32 = allow_tf32
        gram = product(total, difference.mT, allow_tf32)
        return (gram + gram.mT) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (a,) = ctx.saved_tensors
        at_a = product(gradient + gradient.mT, at_least_float32(a), ctx.allow_tf32)
        return at_a.to(a.dtype), None, None, None


def generator_losses(
    generated: Tensor, target: Tensor, fake_scores: Tensor, recipe: Loss, features: Features | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted total (eq. 5) and its unweighted parts.

    Args:
        generated, target: (B, 3, S, S) in [-1, 1].
        fake_scores: the discriminator's scores of `generated`.
        features: image -> [relu1_2, relu2_2]; None if neither the perceptual nor the style loss has a weight.
    """
    parts = {
        "adversarial": adversarial_loss(fake_scores),
        "reconstruction": reconstruction_loss(generated, target),
    }
    if features is not None:
        with torch.no_grad():
            wanted = features(target)
        got = features(generated)
        parts["perceptual"] = perceptual_loss(got, wanted)
        parts["style"] = style_loss(got, wanted, gram=recipe.gram, gram_tf32=recipe.gram_tf32)
    total = torch.stack([getattr(recipe, name) * value for name, value in parts.items()]).sum()
    return total, parts


class PerceptualFeatures(nn.Module):
    """relu1_2 and relu2_2 of VGG19, frozen; layers above them are not computed. Weights are unset until loaded.

    Args:
        imagenet_normalization: normalise the input, in [-1, 1], with ImageNet's statistics. The released code does not.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, imagenet_normalization: bool = False):
        import timm

        super().__init__()
        with torch.device("meta"):  # timm drops the layers above these, but they would take seconds to initialise
            network = timm.create_model("vgg19", pretrained=False, features_only=True, out_indices=(0, 1))
        self.network = network.to_empty(device=torch.get_default_device())
        self.imagenet_normalization = imagenet_normalization
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        if self.imagenet_normalization:
            image = ((image + 1) / 2 - self.mean) / self.deviation
        return self.network(image)

    @classmethod
    def pretrained(cls, *, imagenet_normalization: bool = False) -> PerceptualFeatures:
        """The features with ImageNet weights.

        Raises:
            weights.MissingWeights: they are not on this machine and cannot be downloaded.
        """
        features = cls(imagenet_normalization=imagenet_normalization)
        features.load_vgg19(weights.load_state(weights.find_or_download("vgg19")))
        return features

    def load_vgg19(self, state: Mapping[str, Tensor]) -> None:
        """Load the layers from the weights of a full VGG19 with torchvision's names."""
        names = self.network.state_dict()  # timm writes features_0.weight where torchvision has features.0.weight
        self.network.load_state_dict({name: state[name.replace("_", ".", 1)] for name in names})
