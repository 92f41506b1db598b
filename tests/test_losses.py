"""Losses against their formulas."""

import pytest
import torch

from attnbench.config.recipe import Loss
from attnbench.method import losses


def layers(batch=3, seed=0):
    source = torch.Generator().manual_seed(seed)
    shapes = [(batch, 4, 6, 6), (batch, 5, 3, 3)]
    return [torch.rand(shape, generator=source, dtype=torch.float64) for shape in shapes]


def joint_gram(features):
    """From the formula: F (B c, H W), F F^T / (B c H W)."""
    flat = features.reshape(features.shape[0] * features.shape[1], -1)
    return flat @ flat.T / features.numel()


def test_the_adversarial_game_is_least_squares_with_real_at_one():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    assert losses.discriminator_loss(real, fake) == 2.0 + 2.0
    assert losses.adversarial_loss(fake) == 1.0


def test_perceptual_loss_is_the_sum_over_layers_of_mean_differences():
    a, b = layers(seed=1), layers(seed=2)
    expected = (a[0] - b[0]).abs().mean() + (a[1] - b[1]).abs().mean()
    assert losses.perceptual_loss(a, b) == pytest.approx(float(expected))


def test_joint_style_loss_is_the_difference_of_two_joint_gram_matrices():
    a, b = layers(seed=1), layers(seed=2)
    expected = sum((joint_gram(x) - joint_gram(y)).abs().mean() for x, y in zip(a, b, strict=True))
    assert losses.style_loss(a, b) == pytest.approx(float(expected), rel=1e-12)


def test_per_sample_style_loss_is_the_difference_of_each_samples_gram_matrices():
    a, b = layers(seed=1), layers(seed=2)
    expected = 0.0
    for x, y in zip(a, b, strict=True):
        grams = [[joint_gram(sample[None]) for sample in features] for features in (x, y)]
        expected += float((torch.stack(grams[0]) - torch.stack(grams[1])).abs().mean())
    assert losses.style_loss(a, b, gram="per_sample") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gram", ["joint", "per_sample"])
def test_style_losses_gradient_is_autograds_of_the_plain_formula(gram):
    a, b = layers(seed=1), layers(seed=2)
    mine = [x.clone().requires_grad_() for x in a]
    plain = [x.clone().requires_grad_() for x in a]
    losses.style_loss(mine, b, gram=gram).backward()
    rows = (lambda x: x.flatten(0, 1)[None]) if gram == "joint" else (lambda x: x)
    total = torch.zeros(())
    for x, y in zip(plain, b, strict=True):
        fx, fy = rows(x).flatten(2), rows(y).flatten(2)
        total = total + ((fx @ fx.mT - fy @ fy.mT) / fx[0].numel()).abs().mean()
    total.backward()
    for x, y in zip(mine, plain, strict=True):
        assert torch.allclose(x.grad, y.grad, rtol=1e-10)


def test_joint_style_loss_falls_like_one_over_the_batch_and_per_sample_does_not():
    one = [torch.randn(1, 8, 12, 12, dtype=torch.float64) for _ in range(2)]
    sixteen = [x.expand(16, -1, -1, -1) for x in one]

    def ratio(gram):
        single = losses.style_loss(one[:1], one[1:], gram=gram)
        return float(single / losses.style_loss(sixteen[:1], sixteen[1:], gram=gram))

    assert ratio("joint") == pytest.approx(16, rel=1e-9)  # identical samples: exactly 1/B
    assert ratio("per_sample") == pytest.approx(1, rel=1e-9)


def test_the_total_is_the_weighted_sum_of_its_parts():
    recipe = Loss(adversarial=2, reconstruction=3, perceptual=5, style=7)
    generated, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    scores = torch.rand(2, 1, 2, 2)
    total, parts = losses.generator_losses(generated, target, scores, recipe, lambda image: [image, image[:, :2]])
    expected = 2 * parts["adversarial"] + 3 * parts["reconstruction"] + 5 * parts["perceptual"] + 7 * parts["style"]
    assert total == pytest.approx(float(expected))
    assert parts["reconstruction"] == pytest.approx(float((generated - target).abs().mean()))


def test_without_a_network_there_is_neither_perceptual_nor_style_loss():
    image, scores = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 2, 2)
    _, parts = losses.generator_losses(image, image, scores, Loss(perceptual=0, style=0), None)
    assert set(parts) == {"adversarial", "reconstruction"}


def test_half_precision_inputs_give_float32_losses():
    a, b = torch.rand(2, 3, 8, 8).bfloat16(), torch.rand(2, 3, 8, 8).bfloat16()
    for loss in (
        losses.reconstruction_loss(a, b),
        losses.adversarial_loss(a),
        losses.style_loss([a], [b]),
        losses.perceptual_loss([a], [b]),
    ):
        assert loss.dtype == torch.float32


def test_perceptual_features_are_relu1_2_and_relu2_2(torch_home):
    features = losses.PerceptualFeatures.pretrained()
    state = torch.load(torch_home / "vgg19_to_relu3_1.pth", weights_only=True)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    x = image
    for index in (0, 2):
        x = torch.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
    first = x
    x = torch.max_pool2d(x, 2)
    for index in (5, 7):
        x = torch.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
    for got, expected in zip(features(image), (first, x), strict=True):
        assert torch.allclose(got, expected, atol=1e-4)


def test_perceptual_and_style_losses_reach_the_image_but_not_the_network(torch_home):
    features = losses.PerceptualFeatures.pretrained()
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    _, parts = losses.generator_losses(image, torch.rand(2, 3, 16, 16), torch.rand(2, 1, 1, 1), Loss(), features)
    for name in ("perceptual", "style"):
        (gradient,) = torch.autograd.grad(parts[name], image, retain_graph=True)
        assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_imagenet_normalization_is_applied_to_the_unit_range(torch_home):
    plain = losses.PerceptualFeatures.pretrained()
    normalising = losses.PerceptualFeatures.pretrained(imagenet_normalization=True)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = ((image + 1) / 2 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    assert torch.allclose(normalising(image)[0], plain(by_hand)[0], atol=1e-5)
