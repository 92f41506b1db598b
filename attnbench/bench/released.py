"""The baseline of every speed-up: an iteration as the paper's released code computes it, under PyTorch's defaults.

Two forwards of the generator; the whole VGG19, classifier included, on both images, neither frozen nor in eval mode; every Gram
matrix a product of its own, and gradients through both images' features; everything eager, in float32, with Adam's defaults.
Its losses are those of `attnbench.training.loop.train_step` with the same weights; only the way to them is longer.
"""

from __future__ import annotations

import torch
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
        recipe: sizes, weights of the losses and learning rates; switches of speed and precision are not taken from it.
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
        self.vgg = vgg19(weights=None).to(device).train()  # weights do not change the time
        self.optimizer_g = Adam(self.generator.parameters(), recipe.train.lr_generator, recipe.train.betas)
        self.optimizer_d = Adam(self.discriminator.parameters(), recipe.train.lr_discriminator, recipe.train.betas)

    def __call__(self, batch: Batch) -> Tensor:
        """Returns the generator's loss."""
        target, sketch, reference = batch.target, batch.sketch, batch.reference
        generated = self.generator(sketch, reference)
        loss_d = discriminator_loss(self.discriminator(target, sketch), self.discriminator(generated.detach(), sketch))
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()

        generated = self.generator(sketch, reference)
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
        """relu1_2 and relu2_2, on the way to the class scores, which nobody reads."""
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
