"""The contract of metrics: the built-in ones keep it, and for each promise a metric that breaks it gets a clear message."""

from __future__ import annotations

import random
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import attnbench
from torch import Tensor

from attnbench import NotMeasurable, Pictures, Score, Weights, check_metric, plugins, weights
from attnbench.contract.metric_promises import METRIC_CHECKS
from attnbench.contract.report import Finding, Report
from attnbench.errors import UserError

REGISTERED = sorted({plugin.name for plugin in plugins.installed(plugins.METRICS)})
AGAINST_ANSWERS = ["psnr:against=answer", "ssim:against=answer"]
OF_KNOWN_WARPS = {"pck", "marked_pck"}
NO_BEST_PICTURES = ("outline", "palette")  # of what they use, nothing is what they would score best; see their own tests
WITH_NETWORKS = {"lpips:network=squeeze": "lpips-squeeze", "fid:dims=64": "inception", "kid:dims=64": "inception"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")


def checked(metric: object, **options: object) -> Report:
    return check_metric(metric, device="cpu", options=options)  # type: ignore[arg-type]


def failures(metric: object, **options: object) -> dict[str, str]:
    return {finding.name: finding.detail for finding in checked(metric, **options).failures}


def finding(name: str, metric: object) -> Finding:
    (found,) = (finding for finding in checked(metric).findings if finding.name == name)
    return found


@pytest.mark.parametrize("name", [*REGISTERED, *AGAINST_ANSWERS])
def test_every_registered_metric_keeps_the_contract_as_far_as_it_can_be_checked_without_weights(name: str) -> None:
    report = checked(name)
    report.raise_if_failed()
    assert {"constructor", "descriptor", "weights"} <= {f.name for f in report.findings if f.status == "passed"}
    if "needs none" in {f.detail for f in report.findings}:
        unchecked = [f.name for f in report.findings if f.detail.startswith("not checked")]
        if name in OF_KNOWN_WARPS:  # the probes are of the usual pairs
            assert "numbers" in unchecked
        else:
            assert unchecked == ["direction"] * (name in NO_BEST_PICTURES)


@pytest.mark.parametrize("name", WITH_NETWORKS)
def test_metrics_with_networks_keep_the_contract_where_their_weights_are(name: str, torch_home: Path) -> None:
    if weights.find(WITH_NETWORKS[name]) is None:
        pytest.skip(f"needs the weights {WITH_NETWORKS[name]}")
    report = checked(name)
    report.raise_if_failed()
    assert {f.name for f in report.findings if f.status == "note"} <= {"random"}  # networks draw weights, then load theirs


def test_without_its_weights_a_metric_is_not_measured_and_the_report_says_which_are_missing() -> None:
    report = checked("lpips:network=squeeze")
    assert report.passed
    (numbers,) = (f for f in report.findings if f.name == "numbers")
    assert numbers.detail.startswith("not checked: weights 'lpips-squeeze'")
    assert "attnbench weights --download lpips-squeeze" in numbers.detail
    assert {f.detail for f in report.findings[4:]} == {"not checked, since numbers could not be checked"}


class Good:
    """Mean absolute error, times `scale`."""

    title, unit, decimals, lower_is_better, per_image = "Error", "", 2, True, True
    range: object = (0, 255)
    symmetric = True
    uses: tuple[str, ...] = ("wanted",)

    def __init__(self, *, scale: float = 1.0):
        self.scale = scale

    def measure(self, pictures: Pictures) -> object:
        return pictures.scores(self.error, pictures.generated, pictures.wanted)

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale * (a.double() - b.double()).abs().mean((1, 2, 3))


class GoodForSets(Good):
    """The same, as one number."""

    per_image = False

    def measure(self, pictures: Pictures) -> object:
        return Score(torch.as_tensor(super().measure(pictures)).mean(), {"pictures": len(pictures)})


@pytest.mark.parametrize("metric", [Good, GoodForSets])
def test_a_good_metric_passes_every_check(metric: type) -> None:
    report = checked(metric)
    assert [f.name for f in report.findings if f.status == "passed"] == list(METRIC_CHECKS), str(report)
    assert report.summary == f"{metric.__name__} keeps the contract: {len(METRIC_CHECKS)} passed, 0 failed"
    report.raise_if_failed()


class GoodForLarge(Good):
    """The same, of pictures that are large enough."""

    smallest = 80


def test_a_metric_that_needs_large_pictures_is_checked_on_such() -> None:
    report = checked(GoodForLarge)
    assert [f.name for f in report.findings if f.status == "passed"] == list(METRIC_CHECKS), str(report)
    assert report.setting == "12 pictures, 80 x 80, cpu"
    assert checked(Good).setting == "12 pictures, 64 x 64, cpu"


# Metrics that break one promise


class NoDefault(Good):
    """Needs `power`."""

    def __init__(self, *, power: float):
        super().__init__()


class OddDefault(Good):
    """Has a tensor as its `weight`."""

    def __init__(self, *, weight: Tensor = torch.ones(1)):  # noqa: B008
        super().__init__()


class Undocumented(Good):
    """An option more."""

    def __init__(self, *, heads: int = 8):
        super().__init__()


class NoTitle:
    """Has no title."""

    lower_is_better, per_image = True, True

    def measure(self, pictures: Pictures) -> object:
        return np.zeros(len(pictures))


class WordyDirection(Good):
    """Says the direction in words."""

    lower_is_better = "yes"  # type: ignore[assignment]


class LongTitle(Good):
    """A title of two lines."""

    title = "Error\nof colours"


class Misspells(Good):
    """Uses what there is not."""

    uses = ("originals",)


class HalfAPixel(Good):
    """Its smallest picture is none."""

    smallest = 0.5


class EmptyRange(Good):
    """Its ends are the wrong way round."""

    range = (255, 0)


class UnlistedNetwork(Good):
    """Needs a network that nobody knows."""

    needs = ("no-such-network",)


class OptionNowhere(Good):
    """Takes a key of the recipe as an option that it has not."""

    settings = {"error_power": "power"}  # noqa: RUF012


class AddedNowhere(Good):
    """An option that it has not is said to be new."""

    added_options = ("power",)


class SecretNetwork(Good):
    """Does not say that it needs weights."""

    def measure(self, pictures: Pictures) -> object:
        weights.find_or_download("vgg19")
        return super().measure(pictures)


class OneForAll(Good):
    """Gives the mean, and says that it scores each."""

    def measure(self, pictures: Pictures) -> object:
        return np.mean(super().measure(pictures))  # type: ignore[call-overload]


class DividesByZero(Good):
    """0/0 at the first picture."""

    def measure(self, pictures: Pictures) -> object:
        scores = np.asarray(super().measure(pictures))
        scores[0] = np.nan
        return scores


class ObjectsBeside(Good):
    """Gives an object beside its numbers."""

    def measure(self, pictures: Pictures) -> object:
        return Score(super().measure(pictures), {"who": self})


class NarrowRange(Good):
    """Promises less than it gives."""

    range = (0, 10)


class WrongWay(Good):
    """An error that is said to be better the higher it is."""

    lower_is_better = False


class Blind(Good):
    """Sees nothing."""

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return a.double().mean((1, 2, 3)) * 0


class NeverPerfect(Good):
    """Equal pictures have an error."""

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return super().error(a, b) * 0.9 + 1


class ByTheCount(Good):
    """Depends on how many pictures there are."""

    def measure(self, pictures: Pictures) -> object:
        return np.asarray(super().measure(pictures)) * (1 - 1 / (9 + len(pictures)))


class ByPosition(GoodForSets):
    """Weighs the first pictures more."""

    def measure(self, pictures: Pictures) -> object:
        scores = pictures.scores(self.error, pictures.generated, pictures.wanted)
        return np.average(scores, weights=np.arange(len(scores), 0, -1))


class Remembers(Good):
    """Adds up what it has measured."""

    def measure(self, pictures: Pictures) -> object:
        self.scale *= 0.9
        return super().measure(pictures)


class WritesIntoSketch(Good):
    """Inverts the sketch in place."""

    uses = ("wanted", "sketch")

    def measure(self, pictures: Pictures) -> object:
        pictures.sketch.bitwise_not_()
        return super().measure(pictures)


class TakesMore(Good):
    """Takes the sketch, too, and does not say so."""

    def measure(self, pictures: Pictures) -> object:
        return np.asarray(super().measure(pictures)) * float(len(pictures.sketch)) / len(pictures)


class Peeks(Good):
    """Takes the reference where there is one."""

    def measure(self, pictures: Pictures) -> object:
        try:
            return 0.5 * np.asarray(super().measure(pictures)) * float(len(pictures.reference) > 0)
        except NotMeasurable:
            return super().measure(pictures)


class Lopsided(Good):
    """Weighs the error by the picture's brightness."""

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return super().error(a, b) * (0.5 + a.double().mean((1, 2, 3)) / 510)


BROKEN = [
    (NoDefault, {"power": 2.0}, {"constructor"}, "no default for `power`"),
    (OddDefault, {}, {"constructor"}, "the default of `weight` is no plain value"),
    (Undocumented, {}, {"constructor"}, "the docstring says nothing about `heads`"),
    (NoTitle, {}, {"descriptor"}, "it has no `title`"),
    (WordyDirection, {}, {"descriptor"}, "its `lower_is_better`: Input should be a valid boolean"),
    (LongTitle, {}, {"descriptor"}, "it must be one line"),
    (Misspells, {}, {"descriptor"}, "`uses` names `originals`; pictures have `wanted`"),
    (HalfAPixel, {}, {"descriptor"}, "`smallest` is 0.5: it must be a side in pixels"),
    (EmptyRange, {}, {"descriptor"}, "`range` is (255, 0): it must be (low, high)"),
    (UnlistedNetwork, {}, {"descriptor"}, "`needs` names `no-such-network`, which `networks()` does not list"),
    (OptionNowhere, {}, {"descriptor"}, "`settings` names the options `power`"),
    (AddedNowhere, {}, {"descriptor"}, "`added_options` names `power`, which the constructor does not have"),
    (SecretNetwork, {}, {"weights"}, "it uses the weights `vgg19`, which `needs` does not name"),
    (OneForAll, {}, {"numbers"}, "it gave numbers of shape (), not 12 scores"),
    (DividesByZero, {}, {"numbers"}, "1 of 12 scores are not finite numbers"),
    (ObjectsBeside, {}, {"numbers"}, "`details` of its score are no plain values"),
    (NarrowRange, {}, {"range"}, "outside of [0, 10]"),
    (WrongWay, {}, {"direction"}, "those equal to `wanted` 0, though higher is said to be better"),
    (Blind, {}, {"direction"}, "it does not tell blurred, noisy and recoloured pictures from those equal to `wanted`"),
    (NeverPerfect, {}, {"direction"}, "score 1, not 0, the best of its range"),
    (ByTheCount, {}, {"batch"}, "measured one by one, pictures have other scores"),
    (ByPosition, {}, {"order"}, "in another order the numbers are others"),
    (Remembers, {}, {"repeat"}, "measured twice, with the same pictures, the numbers differ"),
    (WritesIntoSketch, {}, {"inputs"}, "it writes into `sketch`"),
    (TakesMore, {}, {"uses"}, "`uses` does not name `sketch`"),
    (Peeks, {}, {"uses"}, "which `uses` does not name, the numbers are others"),
    (Lopsided, {}, {"symmetric"}, "with pictures and originals in each other's place it differs"),
]


@pytest.mark.parametrize(("metric", "options", "checks", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_a_metric_that_breaks_a_promise_fails_that_check_alone_with_a_reason(
    metric: type, options: dict[str, object], checks: set[str], message: str
) -> None:
    found = failures(metric, **options)
    assert set(found) == checks, found
    assert any(message in detail for detail in found.values()), found


def test_every_check_but_that_of_random_numbers_and_devices_can_fail() -> None:
    assert set().union(*(checks for _, _, checks, _ in BROKEN)) == set(METRIC_CHECKS) - {"random", "devices"}


class DrawsNumbers(Good):
    """Sets the seed of everybody."""

    def measure(self, pictures: Pictures) -> object:
        torch.manual_seed(0)
        return super().measure(pictures)


class NoRange(Good):
    """Says nothing of its range."""

    range = None


class Logarithm(Good):
    """Of the error: infinite for equal pictures."""

    lower_is_better, range, symmetric = False, (None, None), True

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return -super().error(a, b).log10()


class OfTheSketch(Good):
    """How bright the picture is where the sketch is white."""

    uses, symmetric = ("sketch",), False

    def measure(self, pictures: Pictures) -> object:
        return pictures.scores(lambda a, b: (a * (b > 0)).double().mean((1, 2, 3)), pictures.generated, pictures.sketch)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("random", DrawsNumbers, "draws from the global random numbers, or sets their seed"),
        ("range", NoRange, "none declared: range = (low, high)"),
        ("range", Logarithm, "no number for right pictures"),
        ("direction", Logarithm, "pictures equal to `wanted` have no number: 12 of 12 scores are not finite"),
        ("direction", OfTheSketch, "of what it uses (`sketch`) no pictures are known to be the best"),
    ],
)
def test_what_does_not_need_fixing_is_a_note(name: str, metric: type, message: str) -> None:
    found = finding(name, metric)
    assert found.status == "note"
    assert message in found.detail


class OfTheAnswers(Good):
    """Compares with the right answers, part by part."""

    uses, symmetric = ("answers", "parts"), False

    def measure(self, pictures: Pictures) -> object:
        inside = pictures.parts[:, None] > 0
        return pictures.scores(self.error, pictures.generated * inside, pictures.answers * inside)


def test_where_there_are_right_answers_they_are_the_best_pictures() -> None:
    assert finding("direction", OfTheAnswers).detail.startswith("pictures equal to `answers` score 0.00")


class Raises(Good):
    """Has a bug."""

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.flatten()  # the line that is named


def test_what_a_metric_raises_is_a_finding_with_the_authors_line() -> None:
    report = checked(Raises)
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# the line that is named")
    )
    (failure,) = report.failures
    assert failure.name == "numbers"
    assert failure.detail.startswith("RuntimeError: ")
    assert failure.detail.endswith(f"(test_metric_contract.py:{line})")
    with pytest.raises(AssertionError, match="Raises does not keep the contract.*\n.*numbers: RuntimeError"):
        report.raise_if_failed()


class OwnNetwork(Good):
    """Has weights of its own."""

    needs = ("net-of-a-test",)

    @staticmethod
    def networks() -> list[Weights]:
        return [Weights("net-of-a-test", "a test", "https://nowhere.invalid/net-of-a-test.pth")]


def test_networks_of_a_metric_that_is_not_installed_are_known_while_it_is_checked() -> None:
    report = checked(OwnNetwork)
    details = {f.name: f.detail for f in report.findings}
    assert details["weights"] == "without `net-of-a-test` no number, and the reason"
    assert "not checked" not in details["numbers"]  # needs them, but does not ask for them
    assert "net-of-a-test" not in weights.catalogue()


class OtherOnGpus(Good):
    """Rounds where nobody looks."""

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        return super().error(a, b).round() if a.is_cuda else super().error(a, b)


def test_a_metric_that_gives_other_numbers_on_a_gpu_is_found_out(gpu: torch.device) -> None:
    assert check_metric(Good, device=gpu).passed
    (failure,) = check_metric(OtherOnGpus, device=gpu).failures
    assert failure.name == "devices"


def test_a_check_leaves_no_trace() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    catalogue = weights.catalogue
    checked(DrawsNumbers)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    assert weights.catalogue is catalogue


# The command


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package in the current folder, with `Good` and `Bad` in it."""
    code = """
    class Good:
        '''Mean squared error, by `power`.'''

        title, lower_is_better, per_image, range = "Error", True, True, (0, None)

        def __init__(self, *, power: float = 2.0):
            self.power = power

        def measure(self, pictures):
            return pictures.scores(self.error, pictures.generated, pictures.wanted)

        def error(self, a, b):
            return ((a.double() - b.double()).abs() ** self.power).mean((1, 2, 3))

    class Bad(Good):
        lower_is_better = False

    NOT_CALLABLE = 4
    """
    (tmp_path / "metric_here.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    yield "metric_here"
    sys.modules.pop("metric_here", None)


def test_the_command_checks_an_import_path_with_options(package: str) -> None:
    path = list(sys.path)
    outcome = attnbench("check-metric", f"{package}:Good:power=1", "--device", "cpu")
    assert outcome.code == 0, outcome
    assert sys.path == path
    assert outcome.err == ""
    assert "metric_here:Good:power=1: 12 pictures, 64 x 64, cpu" in outcome.out
    assert "keeps the contract" in outcome.out
    assert all(len(line) <= 80 or "keeps the contract" in line for line in outcome.out.splitlines())


def test_the_command_exits_with_1_if_something_failed(package: str) -> None:
    outcome = attnbench("check-metric", f"{package}:Bad", "--device", "cpu")
    assert outcome.code == 1
    assert "failed  direction" in outcome.out
    assert "does not keep the contract" in outcome.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sssim", "unknown metric 'sssim': did you mean 'ssim'"),
        ("kid:dim=64", "unknown option 'dim': did you mean 'dims'"),
        ("kid:dims=wide", "dims=wide: expected a whole number"),
        ("kid:dims", "'dims' is not option=value"),
        ("metric_here:Goood", "unknown attribute 'Goood': did you mean 'Good'?"),
        ("metric_here:NOT_CALLABLE", "is of type int, not a class or a factory"),
        ("metric_nowhere:Good", "metric 'metric_nowhere:Good': 'metric_nowhere' cannot be imported"),
    ],
)
def test_a_metric_that_does_not_exist_is_one_line_and_exit_code_2(text: str, message: str, package: str) -> None:
    outcome = attnbench("check-metric", text)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert message in outcome.err


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="not a int"):
        checked(3)
    with pytest.raises(UserError, match="unknown option 'power'"):
        checked(Good, power=2)
    with pytest.raises(UserError, match="device 'abacus'"):
        check_metric(Good, device="abacus")


def test_the_commands_help_explains_each_option() -> None:
    import typer.main

    from attnbench.cli import app

    assert attnbench("check-metric", "--help").code == 0
    assert all(p.help for p in typer.main.get_command(app).commands["check-metric"].params)  # type: ignore[attr-defined]
