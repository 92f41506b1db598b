"""Where pretrained weights are looked for, and what is said when they are missing."""

import hashlib

import pytest
import torch
from runs import attnbench, install

from attnbench import weights
from attnbench.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty torch home; no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    return tmp_path


def put(path, content=b"weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_torch_hubs_cache_comes_first_then_the_folder_itself(home):
    assert weights.find("vgg19") is None
    stand_in = put(home / "vgg19_to_relu3_1.pth")
    assert weights.find("vgg19") == stand_in
    whole = put(home / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth")
    assert weights.find("vgg19") == whole


def test_the_folder_of_the_command_line_wins_over_the_environment(home, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    put(home / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    wanted = put(other / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    weights.use_torch_home(other)
    assert weights.find("lpips-squeeze") == wanted


def test_a_torch_home_that_is_no_folder_is_refused(home):
    with pytest.raises(UserError, match="--torch-home '.*nowhere' is not a folder"):
        weights.use_torch_home(home / "nowhere")


@pytest.mark.parametrize("name", ["vgg19", "inception", "lpips-alex", "lpips-vgg", "lpips-squeeze"])
def test_missing_weights_are_named_with_the_command_that_gets_them(home, name):
    with pytest.raises(weights.MissingWeights) as missing:
        weights.find_or_download(name)
    assert missing.value.name == name
    assert f"attnbench weights --download {name}" in str(missing.value)
    assert str(home) in str(missing.value)
    assert "\n" not in str(missing.value)


def test_a_download_with_a_wrong_checksum_is_not_kept(home, monkeypatch, tmp_path_factory):
    monkeypatch.delenv("ATTNBENCH_OFFLINE")
    served = put(tmp_path_factory.mktemp("served") / "squeezenet1_1-b8a52dc0.pth", b"something else")
    entry = weights.Weights("lpips-squeeze", "LPIPS", served.as_uri())
    monkeypatch.setattr(weights, "catalogue", lambda: {"lpips-squeeze": entry})
    with pytest.raises(weights.MissingWeights, match="invalid hash value"):
        weights.find_or_download("lpips-squeeze")
    assert weights.find("lpips-squeeze") is None


def test_a_download_with_the_right_checksum_is_found_from_then_on(home, monkeypatch, tmp_path_factory):
    monkeypatch.delenv("ATTNBENCH_OFFLINE")
    content = b"the right bytes"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    served = put(tmp_path_factory.mktemp("served") / name, content)
    monkeypatch.setattr(weights, "catalogue", lambda: {"net": weights.Weights("net", "a test", served.as_uri())})
    assert weights.find_or_download("net").read_bytes() == content
    served.unlink()
    assert weights.find_or_download("net") == home / "hub" / "checkpoints" / name


def test_the_catalogue_has_the_networks_of_training_and_those_that_installed_metrics_list(home, monkeypatch):
    before = weights.catalogue()
    assert {name: before[name].purpose for name in ("vgg19", "inception", "lpips-squeeze")} == {
        "vgg19": "perceptual and style loss",
        "inception": "distances of sets (Inception)",
        "lpips-squeeze": "LPIPS",
    }
    code = """
from attnbench import Weights

class Mine:
    @staticmethod
    def networks():
        return [Weights("my-net", "my distance", "https://nowhere.invalid/my-net-1a2b3c4d.pth")]
"""
    points = "\n[attnbench.metrics]\nmine = metric_with_a_net:Mine\nbroken = metric_with_a_net:NotThere"
    install(home / "site", monkeypatch, "metric_with_a_net", points, code)
    assert set(weights.catalogue()) == {*before, "my-net"}
    shown = attnbench("weights").out.splitlines()
    assert "my-net         my distance                    missing (my-net-1a2b3c4d.pth)" in shown
    assert len({line.index("missing") for line in shown}) == 1


def test_unknown_weights_are_refused_with_the_nearest_name(home):
    with pytest.raises(UserError, match="did you mean 'inception'"):
        weights.find("inceptoin")
