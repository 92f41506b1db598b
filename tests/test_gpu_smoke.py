"""The first look at a GPU, on a CPU: what it prints, and when it says no."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_smoke.py"
TINY = ["data.size=16", "backbone.width=4", "backbone.levels=3", "backbone.discriminator_layers=2", "train.batch_size=2"]
TINY += ["loss.perceptual=0", "loss.style=0"]  # no pretrained network


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_smoke", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_smoke", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    source = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(source.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def smoke(script: ModuleType, images: Path, *more: str, compile: str = "") -> int:
    arguments = [str(images), str(images.parent / "out"), "--device", "cpu", "--steps", "2", "--compile", compile]
    return int(script.main([*arguments, "--set", *TINY, *more]))


def test_it_looks_at_every_module_and_at_a_resumed_run(
    script: ModuleType, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert smoke(script, images) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"cpu .*, torch \S+, attnbench \S+", head)
    looked = [line.split(": ")[0] for line in lines]
    assert looked == ["ceiling, float32", "sga, official", *(f"{name}, fast" for name in script.MODULES), "resumed", "coloured"]
    for line in lines[1 : 2 + len(script.MODULES)]:
        assert re.search(r"generator \d+\.\d+ -> \d+\.\d+ \((falls|RISES)\), \d+\.\d ms, \d+ images/s$", line)
    assert "resumed: bit for bit as undisturbed, after 5 steps" in lines


def test_losses_that_are_not_finite_make_it_fail(script: ModuleType, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke(script, images, "train.lr_generator=1e30") == 1
    assert "sga, official: NOT FINITE: generator " in capsys.readouterr().out


def test_a_resumed_run_that_differs_makes_it_fail_and_the_rest_goes_on(
    script: ModuleType, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: plain(*args, **kwargs) | {"step": 4})
    assert smoke(script, images) == 1
    shown = capsys.readouterr().out
    assert "resumed: NOT EQUAL after 5 steps: largest difference of a weight " in shown
    assert "coloured: " in shown


def test_a_compiled_module_shows_its_first_step_apart(
    script: ModuleType, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiler: None
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert smoke(script, images, compile="scft") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"scft, compiled: first step \d+ s, then generator ", last)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "data.sise=16"], "unknown key 'data.sise': did you mean 'data.size'?"),
        (["--compile", "sgaa"], "did you mean 'sga'"),
        (["--steps", "1"], "--steps 1: "),
        (["--device", "cudda"], "device 'cudda' cannot be used here"),
    ],
)
def test_bad_arguments_are_one_line_before_any_work(
    script: ModuleType, images: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main([str(images), str(images.parent / "out"), "--device", "cpu", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (images.parent / "out").exists()


def test_a_folder_without_images_is_named(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        smoke(script, tmp_path / "nothing")
    assert "no images in " in capsys.readouterr().err
