"""YAML files, the package's own and the user's, parsed into typed models, with one-line errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from attnbench.errors import UserError, unknown

Model = TypeVar("Model", bound=BaseModel)


def built_in_files(folder: str = "") -> dict[str, str]:
    """Name -> text of the YAML files in `configs/`, or in a folder of it."""
    files = resources.files("attnbench_configs").joinpath(folder).iterdir()
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files if file.name.endswith(".yaml")}


def read_mapping(kind: str, name_or_path: str | Path, built_in: Mapping[str, str]) -> dict[str, Any]:
    """A YAML file by path, or one of the `built_in` ones by name.

    Raises:
        UserError: an unknown file or name, or content that is not a mapping.
    """
    path = Path(name_or_path)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{kind} file '{path}' cannot be read: {error}") from None
    elif str(name_or_path) in built_in:
        text = built_in[str(name_or_path)]
    elif path.suffix or len(path.parts) > 1:
        raise UserError(f"{kind} file '{path}' does not exist (built-in {kind}s: {', '.join(sorted(built_in))})")
    else:
        raise unknown(kind, str(name_or_path), built_in)
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{kind} '{name_or_path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{kind} '{name_or_path}' must be a mapping, not a {type(values).__name__}")
    return values


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """`values` as an instance of `model`.

    Raises:
        UserError: an unknown key (the nearest one is suggested), a value of the wrong type or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as errors:
        raise UserError(f"{where}: " + "; ".join(_as_text(error, model) for error in errors.errors())) from None


def _as_text(error: Any, model: type[BaseModel]) -> str:
    """One pydantic error as a clause that names the key, the value and the nearest valid name."""
    location = tuple(str(part) for part in error["loc"])
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = _nearest_key(location, model)
        return f"unknown key '{key}'" + (f": did you mean '{near}'?" if near else "")
    if error["type"] == "missing":
        return f"'{key}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not key or (error["type"] == "value_error" and isinstance(error["input"], dict)):  # of a section as a whole
        return message
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        near_value = difflib.get_close_matches(error["input"], _choices(location, model), n=1, cutoff=0.5)
        message += f"; did you mean '{near_value[0]}'?" if near_value else ""
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _nearest_key(location: Sequence[str], model: type[BaseModel]) -> str | None:
    named = [part for part in location if not part.isdigit()]  # without list positions
    keys = list(_keys(model))
    near = difflib.get_close_matches(".".join(named), keys, n=1, cutoff=0.6)
    if not near:  # a known key in the wrong section
        near = [key for key in keys if key.split(".")[-1] == location[-1]][:1]
    return near[0] if near else None


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys(inner, f"{prefix}{name}.")


def _choices(location: Iterable[str], model: type[BaseModel]) -> list[str]:
    """The strings that a `Literal` field, or a tuple of them, accepts."""
    annotation: Any = model
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
    return [value for value in get_args(annotation) if isinstance(value, str)]
