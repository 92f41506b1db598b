"""Why a metric has no number: what pictures, datasets, protocols and methods lack, in words that records and tables keep."""

from __future__ import annotations

import re

LACKING = {
    "wanted": "originals",
    "sketch": "sketches",
    "reference": "references",
    "draw": "constants of line art",
    "real": "real images",
    "answers": "right answers",
    "parts": "maps of parts",
    "reference_parts": "maps of the references' parts",
    "shows": "known warps",
    "maps": "attention maps",
    "marks": "marks",
}
FROM_ELSEWHERE = "the references come from elsewhere, so "
NO_NETWORK = "where a method looks is seen in a network that was trained here alone"
NO_MAP = "its module shows no attention map between sketch and reference; marks see where its colours come from"
NETWORK_AWAY = "where it looks is seen in its network, which is not at hand"
IMAGES_AWAY = "the images of '{}' are not at hand: pass --data-root, or set ATTNBENCH_DATA"
MARKED = "the references are marked, so "
# What of pictures a protocol alone gives: name -> its `references`, and why others have none.
OF_PROTOCOL = {
    "shows": ("same", "it is known where the reference shows a place of the sketch under `references: same` alone"),
    "marks": ("marked", "references have marks under `references: marked` alone"),
}

OF_MARKED = frozenset({"sketch", "maps", "marks"})  # all that is known of marked pictures


def has_no(dataset: str, what: str) -> str:
    """Why a metric that needs what a dataset lacks has no number.

    >>> has_no("mine", "answers")
    "dataset 'mine' has no right answers"
    """
    return f"dataset '{dataset}' has no {LACKING[what]}"


def too_small(side: int, smallest: int) -> str:
    """Why a metric that needs larger pictures has no number.

    >>> too_small(64, 176)
    'pictures of 64 px are too small: it needs 176'
    """
    return f"pictures of {side} px are too small: it needs {smallest}"


def is_of_protocol(reason: str) -> bool:
    """Whether the metric has no number for the protocol alone, and may have one under another."""
    return reason.startswith(MARKED) or reason in {why for _, why in OF_PROTOCOL.values()}


def is_lack(reason: str, dataset: str) -> bool:
    """Whether the reason is what a dataset, a protocol or a method lacks, or the pictures' size: it names nothing of a machine.

    >>> is_lack(too_small(64, 176), "mine"), is_lack("it failed: no /home/me/net.pth", "mine")
    (True, False)
    """
    known = {NO_NETWORK, NO_MAP, *(has_no(dataset, what) for what in LACKING)}
    if is_of_protocol(reason) or reason.startswith(FROM_ELSEWHERE) or reason in known:
        return True
    return re.fullmatch(too_small(0, 0).replace("0", "[0-9]+"), reason) is not None
