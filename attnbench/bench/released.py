"""The baseline of every speed-up: an iteration as the paper's released code computes it, under PyTorch's defaults.

Two generator forwards, with PyTorch's interpolation and pooling; the whole VGG19, classifier included, on both images, neither
frozen nor in eval mode; a separate product for every Gram matrix, and gradients through both images' features; everything
eager, in float32, with Adam's defaults.
With the same weights, the losses are those of `attnbench.training.loop.train_step`; only computing them takes longer.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from attnbench.config.recipe import Recipe
from attnbench.data.batches import Batch
from attnbench.method.losses import adversarial_loss, discriminator_loss, perceptual_loss, reconstruction_loss
from attnbench.method.winograd import Conv3x3
from attnbench.training.state import ModuleFactory, assemble

_PERCEPTUAL_LAYERS = (3, 8)  # relu1_2 and relu2_2 among torchvision's `features`


class ReleasedStep:
    """Networks, optimisers and losses of the released code; calling it is one iteration.

    Args:
        recipe: gives sizes, loss weights and learning rates; its options for speed and precision are ignored.
    """

    def __init__(self, factory: ModuleFactory, recipe: Recipe, device: torch.device):
        from torchvision.models import vgg19

        self.loss = recipe.loss
        plain = {"generator_forwards": 2, "compile": False, "channels_last": False}
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=plain)})
        networks = assemble(factory, recipe, 0, device, features=None)
        self.generator, self.discriminator = networks.generator.train(), networks.discriminator.train()
        for layer in self.generator.modules():
            if isinstance(layer, Conv3x3):
                layer.plain = True
        self.generator.decoder.doubled = partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=True)
        for encoder in (self.generator.sketch_encoder, self.generator.reference_encoder):
            encoder.average_to = lambda x, *size: F.adaptive_avg_pool2d(x, size)
        self.vgg = vgg19(weights=None).to(device).train()  # the times do not depend on the weights
        self.optimizer_g = Adam(self.generator.parameters(), recipe.train.lr_generator, recipe.train.betas)
        self.optimizer_d = Adam(self.discriminator.parameters(), recipe.train.lr_discriminator, recipe.train.betas)

    def __call__(self, batch: Batch) -> Tensor:
        """One iteration; returns the generator's loss."""
        target, sketch = batch.target, batch.sketch
        generated = self.generator(*batch.given)
        loss_d = discriminator_loss(self.discriminator(target, sketch), self.discriminator(generated.detach(), sketch))
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()

        generated = self.generator(*batch.given)
        got, wanted = self._features(generated), self._features(target)
        loss_g = (
            self.loss.adversarial * adversarial_loss(self.discriminator(generated, sketch))
            + self.loss.reconstruction * reconstruction_loss(generated, target)
            + self.loss.perceptual * perceptual_loss(got, wanted)
            + self.loss.style * sum((_gram(a) - _gram(b)).abs().mean() for a, b in zip(got, wanted, strict=True))
        )
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_g.step()
        return loss_g.detach()

    def _features(self, image: Tensor) -> list[Tensor]:
        """relu1_2 and relu2_2. As in the released code, the class scores are computed too, and not used."""
        found, x = [], image
        for index, layer in enumerate(self.vgg.features):
            x = layer(x)
            if index in _PERCEPTUAL_LAYERS:
                found.append(x)
        self.vgg.classifier(torch.flatten(self.vgg.avgpool(x), 1))
        return found


def _gram(features: Tensor) -> Tensor:
    rows = features.flatten(2).flatten(0, 1)
    return rows @ rows.mT / features.numel()
