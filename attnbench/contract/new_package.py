"""A new package with a plug-in, written from the files in `template/`: installable, tested, registered by its entry point."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from attnbench import plugins
from attnbench.errors import UserError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_]+[A-Za-z0-9]+)*")  # what both Python and packaging accept


@dataclass(frozen=True)
class Kind:
    """What a package is written for.

    Attributes:
        group: of the entry point.
        noun: what plug-ins of the group are, for messages.
        described: the same, for the package's description.
        example: a name, for messages.
        templates: template -> the file made from it. Templates end in .txt so that they are not taken for code of this package.
    """

    group: str
    noun: str
    described: str
    example: str
    templates: Mapping[str, str]


def new_package(name: str, kind: Kind, folder: Path = Path()) -> Path:
    """Write the package `name` into `folder/name`, completely or not at all.

    Returns:
        The new folder.

    Raises:
        UserError: the name is invalid or taken, `folder/name` exists, or `folder` is missing or not writable.
    """
    check_name(name, kind)
    target = folder / name
    if not folder.is_dir():
        raise UserError(f"'{folder}' is not a folder: create it, or name another with --folder")
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise UserError(f"'{target}' exists already: choose another name, or another place with --folder")
    try:
        with TemporaryDirectory(prefix=f".{name}-", dir=folder) as draft:
            written = Path(draft, name)  # one level down: the temporary folder itself is closed to other users
            for file, text in files(name, kind).items():
                (written / file).parent.mkdir(parents=True, exist_ok=True)
                (written / file).write_text(text, encoding="utf-8")
            written.rename(target)
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {error.strerror or error}") from None
    return target


def files(name: str, kind: Kind) -> dict[str, str]:
    """Path -> text of every file of the package."""
    fields = {
        "name": name,
        "module": module_name(name),
        "class_name": class_name(name),
        "group": kind.group,
        "described": kind.described,
    }
    template = resources.files("attnbench.contract").joinpath("template")
    return {
        Template(path).substitute(fields): Template(template.joinpath(source).read_text(encoding="utf-8")).substitute(fields)
        for source, path in kind.templates.items()
    }


def module_name(name: str) -> str:
    """The name of the Python module and of the entry point.

    >>> module_name("my-attention")
    'my_attention'
    """
    return name.replace("-", "_")


def class_name(name: str) -> str:
    """The name of the plug-in's class, which tables show.

    >>> class_name("my-attention"), class_name("adaIN_2")
    ('MyAttention', 'AdaIN2')
    """
    return "".join(part[:1].upper() + part[1:] for part in module_name(name).split("_"))


def check_name(name: str, kind: Kind) -> None:
    """Refuse a name that Python or packaging does not accept, or that a plug-in or an installed package already has.

    Raises:
        UserError: as above; the message names the owner of a name that is taken.
    """
    module = module_name(name)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name '{name}': letters, digits, - and _, with a letter first and no - or _ last, as in {kind.example}"
        )
    for word in (module, class_name(name)):
        if keyword.iskeyword(word) or hasattr(builtins, word):
            raise UserError(f"name '{name}': '{word}' is a keyword or a builtin of Python: choose another name")
    for plugin in plugins.installed(kind.group):
        if plugin.name.lower() == module.lower():
            raise UserError(
                f"name '{name}': package {plugin.package} {plugin.version} has a {kind.noun} '{plugin.name}' already: "
                "choose another name"
            )
    if owner := _owner(name):
        raise UserError(f"name '{name}': {owner} has that name, which the new package would hide: choose another name")


def _owner(name: str) -> str | None:
    """The owner of the name on this machine: the standard library, an importable module, or an installed distribution."""
    module = module_name(name)
    if module in sys.stdlib_module_names:
        return "Python's standard library"
    # An existing folder is found here too, as a namespace without a file; `new_package` checks for it where it matters.
    if (spec := util.find_spec(module)) and spec.origin:
        return f"an installed module ({spec.origin})"
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return f"the installed package {found.name} {found.version}"
