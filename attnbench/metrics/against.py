"""What pictures are compared with: the sketches' own originals, as in papers, or right answers, where a dataset knows them.

A metric that compares no place with the same place, or hardly, may also allow the references.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench.metrics.parts import shown_by_reference
from attnbench.metrics.pictures import Pictures

ORIGINAL, ANSWER, REFERENCE = "original", "answer", "reference"
AGAINST = (ORIGINAL, ANSWER)  # what a metric allows that does not say otherwise


def checked(against: str, allowed: Sequence[str] = AGAINST) -> str:
    """The option's value.

    Raises:
        ValueError: it is none of those that the metric allows.
    """
    if against not in allowed:
        raise ValueError(f"against={against}: expected {', '.join(allowed[:-1])} or {allowed[-1]}")
    return against


def uses_of(against: str) -> tuple[str, ...]:
    """What of `Pictures` the comparison cannot do without."""
    return {ORIGINAL: ("wanted",), ANSWER: ("answers", "parts", "reference_parts"), REFERENCE: ("reference",)}[against]


def title_of(title: str, against: str) -> str:
    """The heading of the column.

    >>> title_of("SSIM", "original"), title_of("SSIM", "answer")
    ('SSIM', 'SSIM to the answer')
    """
    return title if against == ORIGINAL else f"{title} to the {against}"


def targets_of(pictures: Pictures, against: str) -> Tensor:
    """(N, 3, S, S) uint8: what each picture is compared with."""
    (target, *_) = uses_of(against)
    found: Tensor = getattr(pictures, target)
    return found


def knowable(pictures: Pictures, against: str) -> Tensor:
    """(N, S, S) bool: where the target can be known; not, in an answer, where the sketch shows what its reference lacks."""
    if against != ANSWER:
        return torch.ones_like(pictures.generated[:, 0], dtype=torch.bool)
    return shown_by_reference(pictures)


def compared(pictures: Pictures, against: str) -> tuple[Tensor, Tensor]:
    """The pictures, and what each is compared with: (N, 3, S, S) uint8 both. For measures of whole pictures.

    Where the target cannot be known, its own pixels stand in place of the generated ones: it makes no difference what a
    picture has there, and such places count as right. The more of them there are, the higher is the score of any picture.
    """
    targets = targets_of(pictures, against)
    return targets.where(~knowable(pictures, against)[:, None], pictures.generated), targets
