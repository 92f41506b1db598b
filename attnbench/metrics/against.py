"""What pictures are compared with: the sketches' own originals, as in papers, or right answers, where a dataset knows them."""

from __future__ import annotations

from torch import Tensor

from attnbench.metrics.parts import unknowable
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


def compared(pictures: Pictures, against: str) -> tuple[Tensor, Tensor]:
    """The pictures, and what each is compared with: (N, 3, S, S) uint8 both.

    A part that the reference lacks has no colour that one could know. There the answer's own pixels stand in place of the
    generated ones, so that whatever a picture has there makes its score neither better nor worse.
    """
    if against == ORIGINAL:
        return pictures.generated, pictures.wanted
    answers = pictures.answers
    return answers.where(unknowable(pictures)[:, None], pictures.generated), answers
