"""What pictures are compared with: the sketches' own originals, as in papers, or right answers, where a dataset knows them."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.metrics.parts import shown_by_reference
from attnbench.metrics.pictures import Pictures

ORIGINAL, ANSWER = AGAINST = ("original", "answer")


def checked(against: str) -> str:
    """The option's value; ValueError if it is neither of AGAINST."""
    if against not in AGAINST:
        raise ValueError(f"against={against}: expected {' or '.join(AGAINST)}")
    return against


def uses_of(against: str) -> tuple[str, ...]:
    """What of `Pictures` the comparison cannot do without."""
    return ("wanted",) if against == ORIGINAL else ("answers", "parts", "reference_parts")


def title_of(title: str, against: str) -> str:
    """The heading of the column.

    >>> title_of("SSIM", "original"), title_of("SSIM", "answer")
    ('SSIM', 'SSIM to the answer')
    """
    return title if against == ORIGINAL else f"{title} to the answer"


def targets_of(pictures: Pictures, against: str) -> Tensor:
    """(N, 3, S, S) uint8: what each picture is compared with."""
    return pictures.wanted if against == ORIGINAL else pictures.answers


def knowable(pictures: Pictures, against: str) -> Tensor:
    """(N, S, S) bool: where the target can be known; not, in an answer, where the sketch shows what its reference lacks."""
    if against == ORIGINAL:
        return torch.ones_like(pictures.generated[:, 0], dtype=torch.bool)
    return shown_by_reference(pictures)


def compared(pictures: Pictures, against: str) -> tuple[Tensor, Tensor]:
    """The pictures, and what each is compared with: (N, 3, S, S) uint8 both. For measures of whole pictures.

    Where the target cannot be known, its own pixels stand in place of the generated ones: it makes no difference what a
    picture has there, and such places count as right. The more of them there are, the higher is the score of any picture.
    """
    targets = targets_of(pictures, against)
    return targets.where(~knowable(pictures, against)[:, None], pictures.generated), targets
