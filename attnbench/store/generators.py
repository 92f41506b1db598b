"""Trained generators: found in a cell's folder, checked and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.cells.record import FINISHED
from attnbench.errors import UserError
from attnbench.files import check_path
from attnbench.store.folder import CellFolder

if TYPE_CHECKING:
    from attnbench.config.recipe import Recipe
    from attnbench.method.backbone import Colorizer


def load(cell: str | Path, device: str = "cpu") -> Colorizer:
    """The trained generator of a finished cell, or of an exported one, in eval mode.

    `generator(sketch, reference)` maps tensors, see `backbone.Colorizer`; `attnbench.colorize` takes pictures of any size.
    `recipe_of(generator)` is the recipe that it was trained under, `side_of(generator)` its images' size before that.

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
    recipe, module = recorded_recipe(path, record), record["module"]
    if module["name"] not in {plugin.name for plugin in plugins.installed(plugins.MODULES)}:
        raise UserError(
            f"'{path}' needs module '{module['name']}' of {module['package']} {module['version']}, which is not installed "
            "here: pip install that package"
        )
    variant = make_variant(module["name"], module["given"])
    generator = build_generator(variant.factory, recipe, record["seed"])
    weights = path / "generator.safetensors"
    try:
        generator.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"'{weights}' is damaged ({error}): copy it again from where it was trained, or delete the folder and run it again"
        ) from None
    except RuntimeError as error:  # of load_state_dict: other names or shapes
        why = " ".join(str(error).split("\n", 1)[-1].split())[:200]
        raise UserError(
            f"'{weights}' does not fit module '{variant.module}' as it is installed here ({variant.provenance['package']} "
            f"{variant.provenance['version']}), nor the recipe beside it: {why}"
        ) from None
    generator.recipe = recipe  # type: ignore[assignment]  # modules keep other attributes than tensors and modules as well
    generator.side = record["dataset"].get("side")
    return generator.to(device).eval()


def recipe_of(generator: Colorizer) -> Recipe:
    """The recipe under which a generator was trained.

    Raises:
        UserError: it is not one that `load` has made.
    """
    from attnbench.config.recipe import Recipe

    recipe = getattr(generator, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UserError("this generator does not say under which recipe it was trained: use the one that attnbench.load gives")
    return recipe


def side_of(generator: Colorizer) -> int | None:
    """The shorter side, in pixels, of the images that a generator was trained on, as they were in their files: the median.

    None where the cell's record does not say it: those from before attnbench wrote it.
    """
    side = getattr(generator, "side", None)
    return side if isinstance(side, int) else None


def recorded_recipe(cell: Path, record: dict[str, Any]) -> Recipe:
    """The recipe in the record of a cell's folder.

    Raises:
        UserError: it is none that this attnbench knows.
    """
    from attnbench.config.recipe import Recipe
    from attnbench.config.yaml_files import validated

    return validated(Recipe, record["recipe"]["values"], f"the recipe in '{cell / 'cell.json'}'")


def generator_folder(cell: str | Path) -> tuple[Path, dict[str, Any]]:
    """Where a trained generator lies, and its record, which has all that a record of one has; for what `load` takes.

    Raises:
        UserError: it is no cell, or one without a trained generator; the cells of a results folder are named.
    """
    path, expected = Path(cell), "name a finished cell's folder, or an exported one's"
    check_path(path)
    if path.name in ("generator.safetensors", "cell.json") and not path.is_dir():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"there is no cell '{cell}': {expected}" if not path.exists() else f"'{cell}' is a file: {expected}")
    record = CellFolder(path).record()
    if record is None and (path / "cell.json").is_file():
        raise UserError(f"'{path / 'cell.json'}' is damaged: copy the cell's folder again from where it was trained")
    if (path / "generator.safetensors").is_file():
        if record is None:
            raise UserError(f"'{path}' holds no cell.json, the record of its generator: {expected}")
        _check_record(record, path / "cell.json")
        return path, record
    if record is not None and record["status"] != FINISHED:
        raise UserError(
            f"'{path}' is not finished ({record['status']}), it holds no trained generator yet (generator.safetensors): finish "
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


_PARTS: Mapping[str, type] = {
    "seed": int,
    "step": int,
    "module": dict, "module.name": str, "module.label": str, "module.given": dict, "module.options": dict,
    "module.package": str, "module.version": str,
    "dataset": dict, "dataset.name": str, "dataset.fingerprint": str, "dataset.train": int, "dataset.test": int,
    "recipe": dict, "recipe.name": str, "recipe.digest": str, "recipe.values": dict,
    "weights": dict,
    "provenance": dict, "provenance.versions": dict,
    "metrics": dict,
    "costs": dict,
}  # fmt: skip


def _check_record(record: dict[str, Any], file: Path) -> None:
    """See that the record of a trained generator has its parts.

    Raises:
        UserError: one is missing, or of another kind.
    """
    for name, kind in _PARTS.items():
        *above, key = name.split(".")
        value = (record[above[0]] if above else record).get(key)
        if not isinstance(value, kind):
            raise UserError(
                f"'{file}' is not a cell's record ({name} is {json.dumps(value)[:40]}): copy the cell's folder again from "
                "where it was trained"
            )
