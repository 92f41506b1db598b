"""A trained generator as a `torch.export` program."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from attnbench.data.synthetic import draw
from attnbench.errors import UserError
from attnbench.method.backbone import Colorizer
from attnbench.method.precision import tf32
from attnbench.method.winograd import Conv3x3
from attnbench.store.generators import recipe_of

TOLERANCE = 1e-4  # largest difference between a program and its generator, in pixels in [-1, 1]
_BATCHES = (2, 1, 5)  # batch size of the trace, then others to compare with; larger batches run other algorithms


@dataclass(frozen=True)
class Program:
    """Properties of a `torch.export` program, for the model card.

    Attributes:
        size: side of the images that it takes, in pixels.
        any_batch: whether it takes batches of any size; else only of one.
        checked: number of pairs on which it was compared with the generator.
        difference: the largest on these pairs, in pixels in [-1, 1].
    """

    size: int
    any_batch: bool
    checked: int
    difference: float


def write_program(generator: Colorizer, file: Path, module: str) -> Program:
    """Write the generator as a `torch.export` program of the recipe's size, read it back, and compare the two.

    Args:
        module: name of the generator's module, for errors.

    Raises:
        UserError: the module cannot be made into a program, or the program does not agree with the generator.
    """
    size = recipe_of(generator).data.size
    traced = copy.deepcopy(generator)
    for layer in traced.modules():
        if isinstance(layer, Conv3x3):
            layer.plain = True  # the faster algorithm depends on the batch, and programs do not choose
    any_batch = True
    try:
        try:
            program = _traced(traced, _inputs(generator, _BATCHES[0]), torch.export.Dim.DYNAMIC)
        except Exception:  # a forward that uses its batch size in Python
            any_batch = False
            program = _traced(traced, _inputs(generator, 1), None)
    except Exception as error:  # torch.export raises many types
        why = " ".join(str(error).split("\n")[0].split())[:200]
        raise UserError(f"module '{module}' cannot be made into a program ({why}): export it without --program") from None
    _forget_paths(program.graph_module)
    with _quiet():
        torch.export.save(program, file)
        read = torch.export.load(file).module()
    differences = []
    for batch in _BATCHES if any_batch else (1,):
        pair = _inputs(generator, batch)
        with torch.no_grad(), tf32(False):
            differences.append(float((read(*pair) - generator(*pair)).abs().max()))
    difference = max(differences)
    if not difference <= TOLERANCE:  # true of NaN as well
        raise UserError(
            f"the program of module '{module}' differs from its generator by {difference:.1e} (at most {TOLERANCE:.0e}): "
            "export it without --program"
        )
    return Program(size, any_batch, sum(_BATCHES) if any_batch else 1, difference)


def _traced(generator: Colorizer, pair: tuple[Tensor, Tensor], batch: Any) -> torch.export.ExportedProgram:
    """`batch` is the dynamic shape of the first dimension; None fixes it."""
    shapes = ({0: batch}, {0: batch}) if batch else None
    with torch.no_grad(), _quiet():
        return torch.export.export(generator, pair, dynamic_shapes=shapes)


def _inputs(generator: Colorizer, count: int) -> tuple[Tensor, Tensor]:
    """Line art of synthetic heads (B, 1, S, S), and other heads (B, 3, S, S), in [-1, 1]."""
    assert generator.draw is not None
    size = recipe_of(generator).data.size
    heads = torch.stack(
        [torch.from_numpy(np.array(draw(0, index, size))).permute(2, 0, 1).float() / 127.5 - 1 for index in range(2 * count)]
    )
    return generator.draw(heads[:count]), heads[count:]


def _forget_paths(program: fx.GraphModule) -> None:
    """Remove this machine's paths to the code from the traces."""
    for part in program.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the long output of a failing torch.export, and the warnings of some of its versions."""
    with redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        yield
