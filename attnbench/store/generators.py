"""Trained generators: found in a cell's folder, checked and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.cells.record import FINISHED, NotARecord, Record
from attnbench.errors import UserError
from attnbench.files import check_path
from attnbench.store.reading import read_record

if TYPE_CHECKING:
    from attnbench.config.recipe import Data, Recipe
    from attnbench.method.backbone import Colorizer


def load(cell: str | Path, device: str = "cpu") -> Colorizer:
    """The trained generator of a finished cell, or of an exported one, in eval mode.

    `generator(sketch, reference)` maps tensors, see `backbone.Colorizer`; `attnbench.colorize` takes pictures of any size.
    `recipe_of(generator)` is the recipe that it was trained under, `side_of(generator)` the size of its images before resizing.

    Args:
        cell: the folder, or the `generator.safetensors` or `cell.json` in it.

    Raises:
        UserError: there is no trained generator, its module is not installed, or a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from attnbench import plugins
    from attnbench.cells.variant import make_variant
    from attnbench.training.state import build_generator

    path, record = generator_folder(cell)
    recipe, module = recorded_recipe(path, record), record.module
    if module.name not in {plugin.name for plugin in plugins.installed(plugins.MODULES)}:
        raise UserError(
            f"'{path}' needs module '{module.name}' of {module.package} {module.version}, which is not installed here: "
            "pip install that package"
        )
    variant = make_variant(module.name, module.given)
    generator = build_generator(variant.factory, recipe, record.seed)
    weights = path / "generator.safetensors"
    try:
        generator.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"'{weights}' is damaged ({error}): copy it again from where it was trained, or delete the folder and run the "
            "cell again"
        ) from None
    except RuntimeError as error:  # from load_state_dict: other names or shapes
        why = " ".join(str(error).split("\n", 1)[-1].split())[:200]
        raise UserError(
            f"'{weights}' does not fit module '{variant.module}' as installed here ({variant.provenance['package']} "
            f"{variant.provenance['version']}) with the recipe beside it: {why}"
        ) from None
    generator.recipe = recipe  # type: ignore[assignment]  # a module may have plain attributes too
    generator.side = record.dataset.side  # type: ignore[assignment]
    return generator.to(device).eval()


def recipe_of(generator: Colorizer) -> Recipe:
    """The recipe under which a generator was trained.

    Raises:
        UserError: the generator does not come from `load`.
    """
    from attnbench.config.recipe import Recipe

    recipe = getattr(generator, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UserError("this generator has no recipe: use one that attnbench.load returns")
    return recipe


def side_of(generator: Colorizer) -> int | None:
    """Median shorter side, in pixels, of the images that a generator was trained on, as stored in their files.

    None if the cell's record does not have it, being older than the field.
    """
    side = getattr(generator, "side", None)
    return side if isinstance(side, int) else None


def recorded_recipe(cell: Path, record: Record) -> Recipe:
    """The recipe in the record of a cell's folder: its training part, with the usual evaluation.

    Raises:
        UserError: it is not a recipe that this attnbench can read.
    """
    from attnbench.config.recipe import Recipe
    from attnbench.config.yaml_files import validated

    return validated(Recipe, record.recipe.values, f"the recipe in '{cell / 'cell.json'}'")


def recorded_data(cell: Path, record: Record) -> Data:
    """The `data` section of the recipe in a record; rows that were not trained here have no other.

    Raises:
        UserError: it is not one that this attnbench can read.
    """
    from attnbench.config.recipe import Data
    from attnbench.config.yaml_files import validated

    return validated(Data, record.recipe.values.get("data", {}), f"the recipe's data in '{cell / 'cell.json'}'")


def generator_folder(cell: str | Path) -> tuple[Path, Record]:
    """The folder of a trained generator, and its valid record, for any argument that `load` takes.

    Raises:
        UserError: it is not a cell, or has no trained generator; for a results folder the message lists its cells.
    """
    path, expected = Path(cell), "name a finished cell's folder, or an exported one's"
    check_path(path)
    if path.name in ("generator.safetensors", "cell.json") and not path.is_dir():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"there is no cell '{cell}': {expected}" if not path.exists() else f"'{cell}' is a file: {expected}")
    record = _record_in(path)
    if (path / "generator.safetensors").is_file():
        if record is None:
            raise UserError(f"'{path}' holds no cell.json, the record of its generator: {expected}")
        return path, record
    if record is not None and record.status != FINISHED:
        raise UserError(
            f"'{path}' is not finished ({record.status}), it holds no trained generator yet (generator.safetensors): finish "
            f"it with `attnbench run`, or {expected}"
        )
    if record is not None:
        raise UserError(
            f"'{path}' has a cell's numbers but not its trained generator (generator.safetensors): copy it from where the cell "
            f"was trained, or {expected}"
        )
    found = [file.parent for file in sorted(path.glob("*/generator.safetensors"))]
    inside = f" ({', '.join(str(one) for one in found[:3])}{', ...' if len(found) > 3 else ''})" if found else ""
    raise UserError(f"'{path}' holds no trained generator (generator.safetensors, cell.json): {expected}{inside}")


def _record_in(path: Path) -> Record | None:
    file, remedy = path / "cell.json", "copy the cell's folder again from where it was trained"
    try:
        return read_record(file) if file.is_file() else None
    except NotARecord as error:
        raise UserError(f"'{file}' is not a cell's record ({error.problem}): {remedy}") from None
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}): {remedy}") from None
