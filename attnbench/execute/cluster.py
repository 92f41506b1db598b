"""A grid on a SLURM cluster: send what there is to do, and follow it by the cells' files until all have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.cells.cell import Cell
from attnbench.console import Reporter
from attnbench.errors import UserError
from attnbench.execute.board import Board, Running
from attnbench.execute.inline import Tally
from attnbench.execute.planned_cell import plan_new, write_job
from attnbench.execute.slurm import SlurmOptions, active, submit
from attnbench.execute.state import State, state_of
from attnbench.execute.worker import CellOptions
from attnbench.store.folder import CellFolder
from attnbench.store.job import read_job, update_job
from attnbench.store.progress import read_progress

POLL = 2.0  # seconds between looks at the cells
ASK_SLURM = 15.0  # seconds between looks at its queue
LOST_AFTER = 3  # such looks that find neither a job nor an end, before a cell counts as lost


@dataclass
class _Sent:
    """A cell in SLURM's hands, or in another runner's.

    Attributes:
        before: how it was found.
        job: its number, if SLURM has it.
        lost: looks in a row that found no job.
    """

    cell: Cell
    folder: CellFolder
    before: State
    job: str | None = None
    lost: int = 0


def run_slurm(
    cells: Sequence[Cell],
    store: Path,
    reporter: Reporter,
    options: CellOptions,
    slurm: SlurmOptions,
    *,
    detach: bool = False,
) -> Tally | None:
    """Run on the cluster what is not finished. Cells whose jobs are queued already are not sent again.

    Returns:
        What came of it; None with `detach`, which leaves as soon as the cells are sent.

    Raises:
        UserError: submitit or SLURM is missing, or SLURM refuses.
        KeyboardInterrupt: the jobs go on.
    """
    plan_new(cells, store)
    with Board(reporter, len(cells)) as board:
        tally = Tally()
        sent = _send(cells, store, board, options, slurm, tally)
        if detach:
            board.say(f"`attnbench status {store}` shows how far they are; the same command, without --detach, follows them")
            return None
        try:
            _follow(sent, board, options, tally)
        except KeyboardInterrupt:
            arrays = sorted({one.job.partition("_")[0] for one in sent if one.job})
            board.say(f"the jobs go on: `attnbench status {store}` shows them, `scancel {' '.join(arrays)}` ends them")
            raise
    return tally


def _send(
    cells: Sequence[Cell], store: Path, board: Board, options: CellOptions, slurm: SlurmOptions, tally: Tally
) -> list[_Sent]:
    """Submit the cells that have something to do and are in nobody's hands. Returns all that somebody has now."""
    found = [(cell, folder, state_of(folder, board.say)) for cell in cells for folder in [CellFolder(store / cell.folder_name)]]
    earlier = {folder.path: job for _, folder, _ in found if (job := read_job(folder.path).get("slurm"))}
    queued = active(earlier.values())
    if queued is None:
        raise UserError("SLURM does not answer (squeue), so which cells it has already cannot be told: try again later")
    sent, new = [], []
    for cell, folder, state in found:
        one = _Sent(cell, folder, state, earlier.get(folder.path))
        if one.job in queued:
            board.say(f"{cell.label}: {queued[one.job]}, as job {one.job}")
            sent.append(one)
        elif not state.to_do(options.retry_failed, options.rerun_stale):
            _count(one, state, board, tally)
        elif folder.is_held():
            board.say(f"{cell.label}: another process runs it")
            sent.append(one)
        else:
            write_job(cell, folder)
            new.append(one)
    jobs = submit([(one.cell.label, one.folder.path) for one in new], store, slurm, options)
    for one in new:
        one.job = jobs[one.folder.path]
        update_job(one.folder.path, {"slurm": one.job})
        board.say(f"{one.cell.label}: {one.before}, sent as job {one.job}")
    return sent + new


def _follow(sent: Sequence[_Sent], board: Board, options: CellOptions, tally: Tally) -> None:
    waiting, asked = list(sent), 0.0
    while waiting:
        if time.monotonic() - asked > ASK_SLURM:
            asked = time.monotonic()
            _look_for_jobs(waiting)
        left = []
        for one in waiting:
            state = state_of(one.folder)
            if _has_ended(one, state, options):
                _count(one, state, board, tally)
            elif one.lost >= LOST_AFTER:
                board.say(f"{one.cell.label}: its job {one.job} is gone ({state}); the same command sends it again")
                tally.failed.append(one.cell.label)
                board.count(failed=True)
            else:
                left.append(one)
        waiting = left
        running = [Running(one.cell.label, one.folder.path) for one in waiting if read_progress(one.folder.path)]
        board.show(running, waiting=len(waiting) - len(running))
        time.sleep(POLL if waiting else 0)


def _has_ended(one: _Sent, state: State, options: CellOptions) -> bool:
    """Whether it has come to an end since it was found."""
    anew = state.ended != one.before.ended
    return (state.finished or state.failed) and (anew or not state.to_do(options.retry_failed, options.rerun_stale))


def _look_for_jobs(waiting: Sequence[_Sent]) -> None:
    queued = active([one.job for one in waiting if one.job])
    if queued is None:  # that SLURM does not answer says nothing of its jobs
        return
    for one in waiting:
        one.lost = 0 if one.job in queued or one.folder.is_held() else one.lost + 1


def _count(one: _Sent, state: State, board: Board, tally: Tally) -> None:
    board.say(f"{one.cell.label}: {state}{state.hint}")
    (tally.failed if state.failed else tally.finished).append(one.cell.label)
    board.count(failed=state.failed)
