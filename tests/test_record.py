"""The record of a cell: typed, frozen, described by a published schema; records of every age are read, and kept as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from runs import attnbench, cells, only_cell, record, tiny

from attnbench.cells.identity import identity_of_record
from attnbench.cells.record import FAILED, STATUSES, Failure, NewerFormat, NotARecord, parse_record, record_text
from attnbench.store.job import Job, RunOptions, read_job, write_job

RESULTS = Path(__file__).parents[1] / "results"
STORED = sorted(RESULTS.rglob("cell.json"))
OLDEST = {  # what records before the first release may lack, or have instead
    "identity": "1a2b",
    "status": "finished",
    "module": {
        "name": "sga", "label": "SGA", "given": {}, "options": {}, "package": "attnbench", "version": "0.1.0",
        "source_sha256": "ab",
    },
    "dataset": {"name": "cat", "fingerprint": "cd", "train": 4, "test": 2},
    "seed": 0,
    "recipe": {"name": "demo", "digest": "ef", "values": {}},
    "weights": {},
}  # fmt: skip


def validator(schema: dict[str, Any]) -> Any:
    """An independent reading of a schema."""
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def schema() -> dict[str, Any]:
    printed = attnbench("schema", "cell")
    assert printed.code == 0
    return json.loads(printed.out)  # type: ignore[no-any-return]


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.parent.name)
def test_a_committed_record_is_read_fits_the_schema_and_is_written_as_it_was(file: Path) -> None:
    found = parse_record(file.read_bytes())
    assert identity_of_record(found) == found.identity
    assert not list(validator(schema()).iter_errors(json.loads(file.read_text())))
    assert json.loads(record_text(found)) == json.loads(file.read_text())


def test_a_record_that_is_written_now_fits_the_schema(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path, executor="commands")).code == 0
    validator(schema()).validate(record(only_cell(tmp_path)))
    assert attnbench(*tiny(tmp_path)).code == 0
    finished = record(only_cell(tmp_path))
    assert finished["status"] == "finished"
    validator(schema()).validate(finished)


def test_records_from_before_parts_were_added_are_read() -> None:
    found = parse_record(json.dumps(OLDEST))
    assert (found.identity_version, found.step, found.dataset.side, found.module.sources) == (1, 0, None, None)
    assert found.label == "SGA on cat, seed 0"
    assert found.measurements == []


def test_parts_that_this_version_does_not_know_are_kept() -> None:
    later = json.loads(STORED[0].read_text()) | {"room": {"name": "attic"}}
    later["measurements"][0]["metrics"]["ssim"]["shape"] = [1, 2]
    found = parse_record(json.dumps(later))
    changed = found.model_copy(update={"status": FAILED, "failure": Failure(message="why")})
    written = json.loads(record_text(changed))
    assert written == later | {"status": "failed", "failure": {"message": "why"}}
    assert found.measurements[0].metrics["ssim"].parts["shape"] == [1, 2]


def test_a_record_is_frozen() -> None:
    found = cells()[0].new_record()
    with pytest.raises(ValidationError, match="frozen"):
        found.status = FAILED  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        found.module.name = "scft"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seed": "0"}, 'seed is "0"'),
        ({"seed": None}, "seed is null"),
        ({"status": "lost"}, 'status is "lost"'),
        ({"module": []}, "module is []"),
        ({"dataset": {"name": "cat"}}, "dataset.fingerprint is missing"),
        ({"step": -1}, "step is -1"),
        ({"metrics": {"fid": {}}}, "measurements.0.metrics.fid.value is missing"),
        ({"costs": {"step_gflop": "much"}}, 'costs.step_gflop is "much"'),
    ],
)
def test_what_is_wrong_with_a_record_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(NotARecord) as raised:
        parse_record(json.dumps(OLDEST | change))
    assert raised.value.problem.startswith(problem)


def test_newer_formats_and_what_is_no_json_are_not_records() -> None:
    for newer in (OLDEST | {"format": 99}, {"format": 99}):
        with pytest.raises(NewerFormat, match="format 99"):
            parse_record(json.dumps(newer))
    for text in ("", "{", "\x00"):
        with pytest.raises(ValueError, match="."):
            parse_record(text)
    with pytest.raises(ValueError, match="not JSON compliant|Out of range"):
        record_text(parse_record(json.dumps(OLDEST)).model_copy(update={"losses": {"generator": float("nan")}}))


def test_statuses_have_one_order_and_it_is_complete() -> None:
    assert list(STATUSES) == schema()["properties"]["status"]["enum"]


@pytest.mark.parametrize("name", ["cell", "recipe", "grid"])
def test_schemas_are_printed(name: str) -> None:
    printed = attnbench("schema", name)
    assert printed.code == 0
    validator(json.loads(printed.out))


def test_a_schema_that_does_not_exist_is_one_line() -> None:
    refused = attnbench("schema", "cel")
    assert (refused.code, refused.err) == (2, "error: unknown schema 'cel': did you mean 'cell'? (known: cell, grid, recipe)\n")


def test_the_options_of_a_run_are_stored_with_the_cell(tmp_path: Path) -> None:
    run = tiny(tmp_path, executor="commands")
    assert attnbench(*run, "--checkpoint-minutes", "3", "--retry-failed", "--record-gradients").code == 0
    job = read_job(only_cell(tmp_path))
    assert job is not None
    evaluation = cells()[0].recipe.evaluation  # what is to be measured goes with them
    given = {"checkpoint_minutes": 3, "retry_failed": True, "record_gradients": True}
    assert job.options == RunOptions(**given, evaluation=evaluation)  # type: ignore[arg-type]
    assert attnbench(*run).code == 0
    assert read_job(only_cell(tmp_path)).options == RunOptions(evaluation=evaluation)  # type: ignore[union-attr]


def test_a_job_from_before_options_were_stored_is_read(tmp_path: Path) -> None:
    old = {"dataset": "cat", "data_root": "/data", "skip_corrupt": False, "torch_home": "/weights", "slurm": "12_3"}
    (tmp_path / "job.json").write_text(json.dumps(old))
    job = read_job(tmp_path)
    assert job == Job(**old)  # type: ignore[arg-type]
    assert job.options == RunOptions()
    write_job(tmp_path, job)
    assert read_job(tmp_path) == job
    assert read_job(tmp_path / "nowhere") is None
