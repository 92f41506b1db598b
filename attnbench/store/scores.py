"""pairs.csv: the pairs of a measurement, and their scores by the metrics that score each picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.console import warn
from attnbench.files import replacing, set_aside

if TYPE_CHECKING:
    import pandas as pd

PAIRS = "pairs.csv"
_NAMES = ["sketch", "reference"]


def read_scores(folder: Path) -> pd.DataFrame | None:
    """sketch, reference, and a column for each metric; None if there is no such file, or it is damaged."""
    import pandas as pd

    try:
        scores = pd.read_csv(folder / PAIRS, dtype=dict.fromkeys(_NAMES, str))
    except (OSError, ValueError):
        return None
    return scores if set(_NAMES) <= set(scores) else None


def add_scores(folder: Path, new: pd.DataFrame) -> None:
    """Add columns of scores to a measurement's pairs.csv, or write it; a damaged one is set aside, with a warning.

    Args:
        new: sketch, reference, and a column for each metric, in the order of the pairs.
    """
    earlier = read_scores(folder)
    # New scores may name the pairs by number, where the images are not at hand: the names that are there are right.
    if earlier is not None and len(earlier) == len(new):
        columns = new.drop(columns=_NAMES)
        new = earlier.assign(**{str(name): columns[name].to_numpy() for name in columns})
    elif (folder / PAIRS).is_file():
        aside = set_aside(folder / PAIRS)
        warn(
            f"{folder / PAIRS} is damaged: set aside as {aside.name}; `attnbench measure --again` makes the scores of other "
            "metrics anew"
        )
    with replacing(folder / PAIRS) as draft:
        new.to_csv(draft, index=False)
