"""Pretrained weights: where they are searched for, and the error when they are missing.

Searched in this order: torch hub's cache (`hub/checkpoints` in the folder given by `--torch-home`, else by `$TORCH_HOME`; by
default `~/.cache/torch`) and that folder itself, Hugging Face's cache (timm's VGG19), a download with progress and a checksum.
Missing weights are never replaced by random ones.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from attnbench import plugins
from attnbench.errors import UserError, unknown


@dataclass(frozen=True)
class Weights:
    """A file of pretrained weights. `stand_ins` are other files that have the layers needed."""

    name: str
    purpose: str
    url: str
    stand_ins: tuple[str, ...] = ()
    hugging_face: tuple[str, str] | None = None  # repository, file

    @property
    def file(self) -> str:
        return Path(urlparse(self.url).path).name


class MissingWeights(Exception):
    """The weights `name` were not found and could not be downloaded; the message gives the command that gets them."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


def catalogue() -> dict[str, Weights]:
    """All pretrained weights that training and the installed metrics may need, with the URLs that libraries themselves use."""
    return {weights.name: weights for weights in (*_of_training(), *_of_metrics(tuple(plugins.installed(plugins.METRICS))))}


@cache
def _of_training() -> tuple[Weights, ...]:
    from torchvision import models

    return (
        Weights(
            "vgg19",
            "perceptual and style loss",
            models.VGG19_Weights.IMAGENET1K_V1.url,
            stand_ins=("vgg19_to_relu3_1.pth",),
            hugging_face=("timm/vgg19.tv_in1k", "model.safetensors"),
        ),
    )


@cache
def _of_metrics(metrics: tuple[plugins.Plugin, ...]) -> tuple[Weights, ...]:
    """The networks that metrics declare. A metric that cannot be imported has none: using it says why."""
    found: list[Weights] = []
    for plugin in metrics:
        try:
            networks = getattr(plugin.load(), "networks", tuple)
        except UserError:
            continue
        found += networks()
    return tuple(found)


def find(name: str) -> Path | None:
    """Path of the weights if they are on this machine."""
    weights = _named(name)
    hub = Path(torch.hub.get_dir())
    for file in (weights.file, *weights.stand_ins):
        for folder in (hub / "checkpoints", hub.parent):
            if (folder / file).is_file():
                return folder / file
    if weights.hugging_face:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(*weights.hugging_face)
        if isinstance(cached, str):
            return Path(cached)
    return None


def find_or_download(name: str) -> Path:
    """Path of the weights, downloaded if they are not on this machine.

    Raises:
        MissingWeights: they are not on this machine and cannot be downloaded.
    """
    if path := find(name):
        return path
    weights = _named(name)
    target = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    checksum = target.stem.rpartition("-")[2]  # torch hub's file names end in the first digits of their SHA-256
    try:
        if os.environ.get("ATTNBENCH_OFFLINE"):
            raise OSError("ATTNBENCH_OFFLINE is set")
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(target), hash_prefix=checksum)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise MissingWeights(
            name,
            f"weights '{name}' ({weights.file}) are not in '{target.parent}' and could not be downloaded ({reason}): "
            f"run `attnbench weights --download {name}` on a machine with network access and copy the file there",
        ) from None
    return target


@cache
def file_digest(path: Path) -> str:
    """SHA-256 of a weights file, by which records identify the weights that their numbers depend on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.pth` or `.safetensors` file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def use_torch_home(folder: Path | None) -> None:
    """Use this folder, in torch hub's layout, instead of `$TORCH_HOME`."""
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--torch-home '{folder}' is not a folder")
        torch.hub.set_dir(str(folder / "hub"))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide warnings of libraries about their own deprecated calls while they build a network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _named(name: str) -> Weights:
    if name not in catalogue():
        raise unknown("weights", name, catalogue())
    return catalogue()[name]
