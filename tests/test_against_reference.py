"""LPIPS to the reference: a third thing to compare with, for the metric that allows it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torch import Tensor

from attnbench import Pictures, UserError, check_metric, weights
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred
from attnbench.data.images import prepare
from attnbench.data.layouts import synthetic
from attnbench.metrics.against import ANSWER, ORIGINAL, REFERENCE, checked, knowable, targets_of, title_of, uses_of
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.protocol import Protocol

CPU = torch.device("cpu")
TO_REFERENCE, TO_ORIGINAL = "lpips:network=squeeze:against=reference", "lpips:network=squeeze"


@pytest.fixture(scope="module")
def drawings() -> Pictures:
    data = Data(size=64)
    dataset = prepare(synthetic(train=2, test=5, size=64), data)
    pairs = PairSet.of(dataset.test, Protocol(), data)
    return pictures_of(pairs.wanted(), pairs, dataset, CPU)


def numbers(pictures: Pictures, generated: Tensor) -> dict[str, Number]:
    texts = (TO_REFERENCE, TO_ORIGINAL)
    return measure(replace(pictures, generated=generated, _made={}, _own={}), [parse_metric(text) for text in texts])


def test_each_target_is_what_uses_names_first(drawings: Pictures) -> None:
    for against, wanted in ((ORIGINAL, drawings.wanted), (ANSWER, drawings.answers), (REFERENCE, drawings.reference)):
        assert torch.equal(targets_of(drawings, against), wanted)
        assert set(uses_of(against)) <= set(drawings.available)
    assert uses_of(REFERENCE) == ("reference",)
    assert title_of("LPIPS-alex", REFERENCE) == "LPIPS-alex to the reference"
    assert knowable(drawings, REFERENCE).all()


def test_a_metric_says_which_targets_it_allows_and_refuses_others_in_one_line() -> None:
    assert checked(REFERENCE, (ORIGINAL, REFERENCE)) == REFERENCE
    with pytest.raises(ValueError, match="^against=reference: expected original or answer$"):
        checked(REFERENCE)
    for name in ("psnr", "ssim"):
        with pytest.raises(UserError, match="against=reference: expected original or answer$") as error:
            parse_metric(f"{name}:against=reference")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="against=sketch: expected original, answer or reference$"):
        parse_metric("lpips:against=sketch")


def test_only_to_the_reference_has_it_a_companion_and_numbers_stored_earlier_go_on_to_count() -> None:
    found = {against: parse_metric(f"lpips:against={against}") for against in (ORIGINAL, ANSWER, REFERENCE)}
    said = {against: metric.scorer.companion for against, metric in found.items()}  # type: ignore[attr-defined]
    assert said == {ORIGINAL: "", ANSWER: "", REFERENCE: "outline"}
    symmetric = {against: metric.scorer.symmetric for against, metric in found.items()}  # type: ignore[attr-defined]
    assert symmetric == {ORIGINAL: True, ANSWER: False, REFERENCE: False}
    assert found[ORIGINAL].descriptor.options == {"network": "alex"}
    assert found[REFERENCE].descriptor.options == {"network": "alex", "against": "reference"}
    assert (found[REFERENCE].key, found[REFERENCE].uses) == ("lpips:against=reference", ("reference",))


# With real weights


@pytest.fixture
def squeeze(torch_home: Path) -> None:
    if weights.find("lpips-squeeze") is None:
        pytest.skip("needs the weights lpips-squeeze")


def test_it_is_the_reference_implementations_distance_to_the_reference(drawings: Pictures, squeeze: None) -> None:
    with weights.quiet_libraries():
        theirs = lpips.LPIPS(net="squeeze", verbose=False)
    soft = blurred(drawings.wanted, 1)
    with torch.no_grad():
        wanted = theirs(soft.float() / 127.5 - 1, drawings.reference.float() / 127.5 - 1).flatten()
    scores = numbers(drawings, soft)[TO_REFERENCE].scores
    assert scores == pytest.approx(wanted.numpy(), abs=1e-5)


def test_it_keeps_the_contract_of_metrics(squeeze: None) -> None:
    report = check_metric("lpips", device="cpu", options={"network": "squeeze", "against": "reference"})
    report.raise_if_failed()
    assert {found.name for found in report.findings if found.status == "note"} <= {"direction", "random"}


def test_a_copy_of_the_reference_wins_here_and_there_the_original(drawings: Pictures, squeeze: None) -> None:
    copies, originals = (numbers(drawings, made) for made in (drawings.reference, drawings.wanted))
    assert copies[TO_REFERENCE].value == originals[TO_ORIGINAL].value == 0
    assert copies[TO_ORIGINAL].value == pytest.approx(originals[TO_REFERENCE].value)
    answers = numbers(drawings, drawings.answers)[TO_REFERENCE].value
    assert answers is not None
    assert answers > 0.1


def test_it_rises_the_more_the_reference_is_blurred(drawings: Pictures, squeeze: None) -> None:
    found = [numbers(drawings, blurred(drawings.reference, sigma))[TO_REFERENCE].value for sigma in (0, 0.5, 1, 2, 4)]
    assert all(nearer < farther for nearer, farther in pairwise(np.array(found, float)))
