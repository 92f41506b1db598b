"""How long the evaluation of a cell takes, beside the usual way: write the generated images as PNG files and run pytorch-fid.

    TORCH_HOME=torch python benchmarks/evaluation.py --data-root data                  # 1,000 pairs of cat
    TORCH_HOME=torch python benchmarks/evaluation.py --data-root data --dims 768 --lpips-network squeeze --pairs 200 --rounds 3

Both start from the same generated images in memory (real ones with noise: a generator's own time is on neither side), and take
turns. The evaluation gives FID, KID, their floors, LPIPS and both SSIMs; pytorch-fid's command gives FID, from files to which
it starts a process. A first cell on a dataset also computes the features of its real test images and of as many training
images (the floor, which the usual way leaves out); they are kept, so that later cells, of all modules and seeds, have half of
the command's Inception forwards to do.

Seconds are the clock's; `processor` are those of all cores, which other work on the machine changes less. Ratios are those of
medians, the usual way's over the evaluation's. Where the two FIDs disagree by more than 1e-3 of their value, it ends in an
error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnbench import weights
from attnbench.cells.provenance import device_name, now, provenance
from attnbench.config.recipe import Data, Evaluation
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.layouts import Dataset, ImageFile, cat
from attnbench.errors import UserError
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import measure, pictures_of
from attnbench.metrics.metric import Metric, metrics_of
from attnbench.metrics.protocol import Protocol

METRICS = ("fid", "kid", "lpips", "ssim", "ssim_global")
USUAL, CELLS = ("PNG files", "pytorch-fid"), ("first cell", "later cell")
NOISE = 12.0  # grey levels
Taken = tuple[float, float]  # seconds by the clock, and of all processors


def make_dataset(root: Path, pairs: int) -> Dataset:
    """Cats: the test images, then as many training images as are missing; and at most as many to train on."""
    found = cat(root)
    pictures = [*found.test, *found.train]
    if len(pictures) < pairs + 2:
        raise UserError(f"--pairs {pairs}: '{found.source}' has {len(pictures)} images, and two are needed for the floor")
    return Dataset("cat", pictures[pairs : 2 * pairs], pictures[:pairs], found.source)


def made_up(pairs: PairSet) -> Tensor:
    """What a generator might have coloured: (N, 3, S, S) uint8, the wanted images with noise."""
    real = pairs.wanted()
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    return (real + NOISE * noise).round().clamp(0, 255).to(torch.uint8)


@contextmanager
def timed(taken: list[Taken], device: torch.device) -> Iterator[None]:
    """Append how long the block takes, with the processes that it starts and waits for."""

    def read() -> Taken:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        used = os.times()
        return time.perf_counter(), used.user + used.system + used.children_user + used.children_system

    before = read()
    yield
    clock, processor = (after - then for after, then in zip(read(), before, strict=True))
    taken.append((clock, processor))


def write_pngs(images: Tensor, folder: Path) -> None:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:06d}.png")


def pytorch_fid(real: Path, fake: Path, dims: int, device: torch.device) -> float:
    """What pytorch-fid's command prints; its options are its defaults."""
    command = [sys.executable, "-m", "pytorch_fid", str(real), str(fake), "--dims", str(dims), "--device", str(device)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"pytorch-fid's command failed: {ran.stderr.strip().splitlines()[-1]}")
    return float(ran.stdout.rpartition("FID:")[2])


def one_round(
    generated: Tensor,
    pairs: PairSet,
    dataset: PreparedDataset,
    metrics: Sequence[Metric],
    dims: int,
    device: torch.device,
    taken: dict[str, list[Taken]],
) -> tuple[float, float]:
    """Both ways, once. Returns both FIDs."""

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for cell in CELLS:
            with timed(taken[cell], device):
                numbers = measure(pictures_of(generated, pairs, dataset, device, cache=base / "cache"), metrics)
        (base / "real").mkdir()
        for index, picture in enumerate(dataset.test_pictures):
            assert isinstance(picture, ImageFile)
            (base / "real" / f"{index:06d}{picture.path.suffix}").symlink_to(picture.path.resolve())
        with timed(taken["PNG files"], device):
            write_pngs(generated, base / "fake")
        with timed(taken["pytorch-fid"], device):
            theirs = pytorch_fid(base / "real", base / "fake", dims, device)
    values = {key: number.value for key, number in numbers.items()}
    ours = values[next(metric.key for metric in metrics if metric.descriptor.name == "fid")]
    missing = [f"{key}: {numbers[key].reason}" for key, value in values.items() if value is None]
    if ours is None or missing:
        raise UserError(missing[0])
    return ours, theirs


def summary(taken: dict[str, list[Taken]]) -> dict[str, Any]:
    """Medians by the clock and by the processors, sums and ratios."""
    figures: dict[str, Any] = {}
    for column, unit in enumerate(("clock", "processor")):
        seconds = {name: median(row[column] for row in rows) for name, rows in taken.items()}
        seconds["usual way"] = sum(seconds[name] for name in USUAL)
        ratios = {cell: seconds["usual way"] / seconds[cell] for cell in CELLS}
        figures[unit] = {"seconds": seconds, "ratios": ratios}
    return figures


def table(figures: dict[str, Any]) -> str:
    said = f"{'':20s}{'seconds':>10s}{'processor':>12s}\n"
    for name in ("usual way", *USUAL, *CELLS):
        indent = "  " if name in USUAL else ""
        clock, processor = (figures[unit]["seconds"][name] for unit in ("clock", "processor"))
        said += f"{indent + name:20s}{clock:10.2f}{processor:12.2f}\n"
    for cell in CELLS:
        clock, processor = (figures[unit]["ratios"][cell] for unit in ("clock", "processor"))
        said += f"{'usual / ' + cell:20s}{clock:10.2f}{processor:12.2f}\n"
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root", type=Path, required=True, help="the folder with cat/, or with afhq/")
    parser.add_argument("--device", help="[default: the first GPU, or the CPU]")
    parser.add_argument("--dims", type=int, default=2048, choices=(64, 192, 768, 2048), help="width of the Inception layer")
    parser.add_argument("--lpips-network", default="alex", choices=("alex", "vgg", "squeeze"))
    parser.add_argument("--json", type=Path, help="write the figures here: into evaluation-<device>.json, if it is a folder")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    try:
        report = run(asked, device, sys.stdout.write)
    except (UserError, weights.MissingWeights) as error:
        sys.exit(f"error: {error}")
    if asked.json:
        name = re.sub(r"[^a-z0-9]+", "-", f"evaluation {device_name(device)}".lower()).strip("-")
        file = asked.json / f"{name}.json" if asked.json.is_dir() else asked.json
        file.write_text(json.dumps(report, indent=1) + "\n")


def run(asked: argparse.Namespace, device: torch.device, say: Callable[[str], object]) -> dict[str, Any]:
    for name in ("inception", f"lpips-{asked.lpips_network}"):
        weights.find_or_download(name)
    settings = {"fid_dims": asked.dims, "lpips_network": asked.lpips_network}
    metrics = metrics_of(Evaluation.model_validate({"metrics": METRICS, **settings}))
    data = Data.model_validate({"sketch": {"at": "target"}})  # no sketches are stored
    dataset = prepare(make_dataset(asked.data_root, asked.pairs), data)
    pairs = PairSet.of(dataset.test, Protocol(), data)
    generated = made_up(pairs)
    taken: dict[str, list[Taken]] = {name: [] for name in (*CELLS, *USUAL)}
    for turn in range(asked.rounds):
        ours, theirs = one_round(generated, pairs, dataset, metrics, asked.dims, device, taken)
        if abs(ours - theirs) > 1e-3 * abs(theirs):
            raise UserError(f"FID is {ours} here, and {theirs} by pytorch-fid's command")
        rounds = {name: [round(clock, 3) for clock, _ in rows] for name, rows in taken.items()}
        say(f"{asked.pairs} pairs, round {turn + 1} of {asked.rounds}: FID {ours:.6g}, by pytorch-fid {theirs:.6g}\n")
    figures = summary(taken)
    say(f"{device_name(device)}, medians\n{table(figures)}")
    return {
        "pairs": asked.pairs,
        "floor_pairs": min(asked.pairs, len(dataset.train_pictures)),
        "rounds": asked.rounds,
        "device": device_name(device),
        "torch": torch.__version__,
        "dims": asked.dims,
        "lpips_network": asked.lpips_network,
        "fid": {"attnbench": ours, "pytorch_fid": theirs},
        **figures,
        "clock_of_each_round": rounds,
        "provenance": provenance(device).model_dump(),
        "ended": now(),
    }


if __name__ == "__main__":
    main()
