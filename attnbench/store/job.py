"""job.json: what another process on this machine needs to run a cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnbench.errors import UserError
from attnbench.files import write_text


def update_job(folder: Path, changes: dict[str, Any]) -> None:
    write_text(folder / "job.json", json.dumps({**read_job(folder), **changes}, indent=1) + "\n", sync=False)


def read_job(folder: Path) -> dict[str, Any]:
    """What job.json holds; empty where there is none."""
    file = folder / "job.json"
    try:
        job: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"'{folder / 'job.json'}' is damaged ({error}): delete it, and `attnbench run` again writes it"
        ) from None
    return job
