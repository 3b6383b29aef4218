"""`understudy zoo`: the list of models, and the savers that are worth scoring."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import Run, refused
from understudy.catalogue import load_catalogue
from understudy.zoo.model_specs import named_specs

LIGHT = """
import contextlib, sys
from understudy.app.cli.main import main
for words in sys.argv[1:]:
    sys.argv = ["understudy", *words.split()]
    with contextlib.suppress(SystemExit):
        main()
loaded = {"numpy", "polars", "torch", "scipy", "numba", "timm", "torchvision"} & set(sys.modules)
assert not loaded, loaded
"""


def test_the_list_loads_nothing_heavy() -> None:
    commands = ("zoo --json", "zoo --name torchvision", "zoo suggest --big torchvision:resnet152")
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT, *commands],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("torchvision:resnet152") >= len(commands)


def test_json_is_a_list_of_all_models(run: Run) -> None:
    models = run("zoo", "--json").json
    assert [one["spec"] for one in models] == sorted(one.spec for one in load_catalogue())
    assert set(models[0]) == {
        *("spec", "hub", "architecture", "weights", "default", "family", "classes", "parameters"),
        *("macs", "input_size", "licence", "top1", "ms"),
    }


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Specs are printed whole."""
    monkeypatch.setenv("COLUMNS", "160")


def test_models_are_filtered_and_sorted(run: Run) -> None:
    command = ("zoo", "--name", "torchvision:*", "--max-macs", "0.5G", "--licence", "bsd*")
    models = run(*command, "--sort", "top1", "--json", "--limit", 4).json
    accuracies = [one["top1"] for one in models]
    assert len(models) == 4
    assert accuracies == sorted(accuracies, reverse=True)
    assert max(one["macs"] for one in models) <= 5e8
    shown = run(*command, "--sort", "macs").stdout
    assert "mnasnet0_5" in shown
    assert "resnet50" not in shown


def test_a_long_list_says_that_it_is_cut(run: Run) -> None:
    shown = run("zoo", "--limit", 2).stdout
    assert "2 of them are shown" in shown
    assert len([line for line in shown.splitlines() if "timm:" in line]) == 2
    assert "are shown" not in run("zoo", "--name", "torchvision:vgg11_bn").stdout


def test_nothing_fits(run: Run) -> None:
    assert run("zoo", "--name", "no such model", "--json").json == []
    assert "0 models" in run("zoo", "--name", "no such model").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("zoo --sort accuracy", "no order 'accuracy'"),
        ("zoo --max-macs many", "--max-macs takes a number, found 'many'"),
        ("zoo --published absent.csv", "'absent.csv' cannot be read"),
        ("zoo --json suggest --big torchvision:resnet152", "found --json in front of it"),
        ("zoo suggest --big resnet152", "did you mean 'torchvision:resnet152' or"),
        ("zoo suggest --big timm:resnet152.none", "no model 'timm:resnet152.none'"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, words: str, message: str) -> None:
    refused(run(*words.split()), message)


def test_suggestions_end_with_the_command_that_scores_them(run: Run) -> None:
    command = ("zoo", "suggest", "--big", "torchvision:resnet152", "--most", 3, "--within", 20)
    data = run(*command, "--json").json
    words = shlex.split(data["next"])
    assert words[:3] == ["understudy", "score", data["big"]["spec"]]
    assert words[3:6] == [one["spec"] for one in data["savers"]]
    assert len(named_specs(words[2:6])) == 4
    assert data["unit"] == "MACs"
    assert data["left_out"]["unknown_accuracy"] > 0
    shown = run(*command).stdout
    assert data["next"] in shown
    assert "MACs are not time" in shown
    assert "their accuracy is not known here" in " ".join(shown.split())


def test_unknown_accuracies_are_said_to_be_unknown(run: Run) -> None:
    shown = " ".join(run("zoo", "suggest", "--big", "timm:beit_large_patch16_512").stdout.split())
    assert "top-1 unknown" in shown
    assert "no saving is estimated" in shown


def test_nothing_to_suggest(run: Run) -> None:
    command = ("zoo", "suggest", "--big", "torchvision:shufflenet_v2_x0_5", "--within", 1)
    shown = run(*command).stdout
    assert "No model with published weights promises a saving" in shown
    assert "Next" not in shown
    assert run(*command, "--json").json["next"] is None


def test_published_times_and_accuracies_are_joined(run: Run, shared: Path) -> None:
    folder = shared / "timm"
    (times,) = folder.glob("benchmark-infer-amp*.csv")
    files = ("--published", folder / "results-imagenet.csv", "--published", times)
    data = run("zoo", "suggest", "--big", "timm:convnextv2_huge", *files, "--json").json
    assert data["unit"] == "ms"
    assert all(one["ms"] and one["top1"] for one in data["savers"])
    assert "ms" in run("zoo", "--name", "timm:resnet50.*", *files, "--sort", "ms").stdout
