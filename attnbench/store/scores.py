"""pairs.csv: the pairs of a measurement, and their scores by the metrics that score each picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.files import replacing

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
    """Add columns of scores to a measurement's pairs.csv, or write it.

    Args:
        new: sketch, reference, and a column for each metric, in the order of the pairs.
    """
    earlier = read_scores(folder)
    columns = new.drop(columns=_NAMES)
    # New scores may name the pairs by number, where the images are not at hand: the names that are there are right.
    same = earlier is not None and len(earlier) == len(new)
    both = earlier.assign(**{str(name): columns[name].to_numpy() for name in columns}) if earlier is not None and same else new
    with replacing(folder / PAIRS) as draft:
        both.to_csv(draft, index=False)
