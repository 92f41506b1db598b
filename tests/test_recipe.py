"""Recipes: three files, one schema, and what is said when a key or value is wrong."""

import json
from pathlib import Path

import pytest
import yaml
from runs import HEADS, overrides

from attnbench.config.recipe import (
    Evaluation,
    Recipe,
    built_in_recipes,
    describe,
    digest,
    load_recipe,
    metric_settings,
)
from attnbench.errors import UserError
from attnbench.execute.inline import Inline
from attnbench.execute.run import RunRequest, check_request
from attnbench.metrics.metric import metrics_of

RESULTS = Path(__file__).resolve().parents[1] / "results"


def test_official_yaml_writes_out_every_default():
    assert load_recipe("official") == Recipe()

    def keys(values):
        return {k: keys(v) if isinstance(v, dict) else None for k, v in values.items()}

    written, wanted = yaml.safe_load(built_in_recipes()["official"]), keys(Recipe().model_dump(mode="json"))
    wanted["evaluation"] |= dict.fromkeys(metric_settings())
    assert keys(written) == wanted
    assert {key: written["evaluation"][key] for key in metric_settings()} == metric_settings()


def test_official_has_the_papers_constants():
    recipe = load_recipe("official")
    assert (recipe.loss.adversarial, recipe.loss.reconstruction, recipe.loss.perceptual, recipe.loss.style) == (1, 30, 0.01, 50)
    assert (recipe.train.lr_generator, recipe.train.lr_discriminator, recipe.train.betas) == (1e-4, 2e-4, (0.5, 0.999))
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.data.size) == (40, 16, 256)


def test_paper_differs_from_official_where_the_text_is_explicit():
    assert load_recipe("paper") == load_recipe("official", ["data.jitter=channel_shift"])


def test_cells_from_before_a_key_was_added_are_still_cells_of_the_same_recipe():
    """A key that is at its default is no part of what they were trained with."""
    ours = ("seeds", "small", "variants")  # beside them lie the results of whoever works here
    trained = [json.loads(file.read_text()) for store in ours for file in (RESULTS / store).glob("*/cell.json")]
    assert len(trained) == 52
    for record in trained:
        values = record["recipe"]["values"]
        assert Recipe.model_validate(values).training == values
    for changed in ("loss.gram_tf32=true", "train.cuda_graph=true"):
        assert load_recipe("official", [changed]).training != Recipe().training
        assert Recipe.model_validate(load_recipe("official", [changed]).training) == load_recipe("official", [changed])


def test_demo_needs_no_pretrained_network():
    recipe = load_recipe("demo")
    assert not recipe.needs_perceptual_network
    assert not {"fid", "kid", "lpips"} & set(recipe.evaluation.metrics)


def test_a_stored_recipe_reads_back_as_itself(tmp_path):
    recipe = load_recipe("demo", ["train.epochs=3", "data.warp.kind=grid"])
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    assert load_recipe(file) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown key 'train.epoch': did you mean 'train.epochs'?"),
        ("batch_size=3", "unknown key 'batch_size': did you mean 'train.batch_size'?"),
        ("data.sketch.sigmas=[1]", "did you mean 'data.sketch.sigma'?"),
        ("train.batch_size=0", "train.batch_size = 0: input should be greater than or equal to 2"),
        ("train.batch_size=many", "train.batch_size = 'many'"),
        ("data.jitter=offical", "did you mean 'official'?"),
        ("evaluation.metrics=[ssim, ssim]", "metrics has 'ssim' twice"),
        ("evaluation.references=[cross, cross]", "references has 'cross' twice"),
        ("evaluation.references=cros", "did you mean 'cross'?"),
        ("evaluation.limit=0", "evaluation.limit = 0: input should be greater than or equal to 1"),
        ("evaluation.fid_dim=64", "did you mean 'fid_dims'?"),
        ("backbone.levels=8", "data.size = 48 leaves no bottleneck: backbone.levels = 8 needs 256 pixels"),
        ("train=3", "train = 3"),
        ("train.steps.more=3", "--set train.steps.more=3: 'steps' is a value, not a section"),
        ("train.epochs", "expected section.key=value"),
        ("train.epochs=[", "is not a YAML value"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line_that_names_it(override, message):
    with pytest.raises(UserError) as error:
        load_recipe("demo", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["evaluation.metrics=[ssmi]"], "unknown metric 'ssmi': did you mean 'ssim'?"),
        (["evaluation.metrics=['fid:dim=64']"], "unknown option 'dim': did you mean 'dims'?"),
        (["evaluation.metrics=[fid, 'fid:dims=2048']"], "metric 'fid' is named twice"),
        (["evaluation.metrics=[fid]", "evaluation.fid_dims=100"], "dims=100: expected one of 64, 192, 768, 2048"),
        (["evaluation.metrics=[kid]", "evaluation.fid_dims=many"], "metric 'kid': dims=many: expected a whole number"),
        (["evaluation.metrics=[lpips]", "evaluation.lpips_network=alexnet"], "expected one of alex, vgg, squeeze"),
    ],
)
def test_metrics_that_cannot_be_are_refused_before_a_run_in_one_line(changes, message):
    recipe = load_recipe("demo", [*overrides(), *changes])  # a recipe alone needs no metric's package
    request = RunRequest(["sga"], [HEADS], "demo", overrides=[*overrides(), *changes], executor=Inline(["cpu"]))
    for check in (lambda: check_request(request), lambda: metrics_of(recipe.evaluation)):
        with pytest.raises(UserError) as error:
            check()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_keys_that_metrics_declare_set_their_options_and_options_of_their_own_win():
    chosen = Evaluation.model_validate({"metrics": ["fid", "kid:dims=192", "lpips"], "fid_dims": 64, "lpips_network": "vgg"})
    assert [metric.key for metric in metrics_of(chosen)] == ["fid:dims=64", "kid:dims=192", "lpips:network=vgg"]
    assert chosen.settings == {"fid_dims": 64, "lpips_network": "vgg"}


def test_a_declared_key_at_its_default_is_the_recipe_without_it():
    assert load_recipe("demo", ["evaluation.fid_dims=2048", "evaluation.real_size=native"]) == load_recipe("demo")


def test_one_kind_of_reference_needs_no_list():
    assert load_recipe("demo", ["evaluation.references=same"]).evaluation.references == ("same",)
    assert load_recipe("demo", ["evaluation.references=[same, cross]"]).evaluation.references == ("same", "cross")


def test_what_training_depends_on_is_everything_but_the_evaluation():
    usual = load_recipe("demo")
    measured = load_recipe("demo", ["evaluation.references=same", "evaluation.limit=3", "evaluation.metrics=[fid]"])
    assert usual.training == measured.training
    assert set(usual.training) == {"data", "backbone", "loss", "train"}
    assert load_recipe("demo", ["train.epochs=3"]).training != usual.training


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [", "data: 3"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="mine.yaml") as error:
        load_recipe(file)
    assert "\n" not in str(error.value)


def test_unknown_names_and_missing_files_are_told_apart():
    with pytest.raises(UserError, match="did you mean 'official'"):
        load_recipe("oficial")
    with pytest.raises(UserError, match="recipe file 'configs/none.yaml' does not exist"):
        load_recipe("configs/none.yaml")


def test_numbers_in_scientific_notation_are_numbers():
    assert load_recipe("demo", ["train.lr_generator=1e-3"]).train.lr_generator == 1e-3


def test_overrides_show_in_the_name():
    assert describe("configs/official.yaml") == "official"
    assert describe("official", ["train.epochs=1"]) == "official with train.epochs=1"
    assert describe("official", ["evaluation.limit=3", "train.epochs=1"]) == "official with train.epochs=1"
    assert describe("official", ["evaluation.limit=3"]) == "official"


def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
