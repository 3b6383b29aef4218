"""The catalogue: its table, published results joined to it, and the savers that it suggests."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import understudy.catalogue
from understudy.catalogue import CatalogueModel, find_model, load_catalogue
from understudy.catalogue.models import family_of
from understudy.catalogue.published import PublishedResults, join_published, read_published
from understudy.catalogue.selection import Selection
from understudy.catalogue.suggestions import PER_FAMILY, expected_saving, suggest
from understudy.errors import DataError, ModelError
from understudy.nn.cost import count_definition, count_parts
from understudy.zoo.models import build_model, build_stage

MODELS = load_catalogue()
SAMPLE = (
    "torchvision:mobilenet_v3_small.IMAGENET1K_V1",
    "torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1",  # at 384 pixels, where V1 has 224
    "torchvision:regnet_x_400mf.IMAGENET1K_V2",  # reads values of tensors while it is made
    "timm:efficientvit_m0.r224_in1k",
    "timm:levit_128s.fb_dist_in1k",
)


def model(
    name: str, macs: float, top1: float | None, ms: float | None = None, classes: int = 1000
) -> CatalogueModel:
    """A model of its own architecture."""
    count = int(macs * 1e9)
    return CatalogueModel(
        f"timm:{name}.a", True, classes, count, count, (224, 224), "mit", top1, ms
    )


def check_counts(spec: str) -> None:
    """The counts of a model are those of the table."""
    row = find_model(spec, MODELS)
    counted = count_definition(lambda: build_model(spec), (3, *row.input_size))
    assert counted.uncounted == ()
    assert (counted.parameters, counted.macs) == (row.parameters, row.macs), spec


def test_the_table_has_every_model_once() -> None:
    architectures = Counter(one.spec.partition(".")[0] for one in MODELS)
    assert sum(name.startswith("timm:") for name in architectures) >= 1300
    assert sum(name.startswith("torchvision:") for name in architectures) >= 80
    assert len({one.spec for one in MODELS}) == len(MODELS)
    assert Counter(f"{one.hub}:{one.architecture}" for one in MODELS if one.default) == Counter(
        set(architectures)
    )


def test_the_table_has_plausible_figures() -> None:
    for one in MODELS:
        assert one.parameters > 0
        assert one.macs > 0
        assert min(one.input_size) > 0
        assert one.top1 is None or 40 < one.top1 < 100, one
        assert one.licence != ""
    known = Counter(one.hub for one in MODELS if one.top1 is not None)
    assert known["torchvision"] == sum(one.hub == "torchvision" for one in MODELS) >= 113
    assert known["timm"] >= 30, "weights that are the same files as torchvision's"


def test_the_origin_of_the_table_stands_beside_it() -> None:
    file = Path(understudy.catalogue.__file__).with_name("origin.json")
    origin = json.loads(file.read_text())
    assert origin["models"] == len(MODELS)
    assert origin["command"] == "python benchmarks/catalogue.py --write"
    assert set(origin["versions"]) == {"timm", "torchvision", "torch"}


@pytest.mark.parametrize("spec", SAMPLE)
def test_counts_can_be_repeated(spec: str) -> None:
    check_counts(spec)


@pytest.mark.slow
def test_counts_of_many_models_can_be_repeated() -> None:
    for one in random.Random(0).sample([one for one in MODELS if one.classes], 60):
        check_counts(one.spec)


@pytest.mark.slow
def test_the_table_has_the_models_of_the_installed_libraries() -> None:
    timm = pytest.importorskip("timm")
    file = Path(understudy.catalogue.__file__).with_name("origin.json")
    if json.loads(file.read_text())["versions"]["timm"] != version("timm"):
        pytest.skip("the table was made with another version of timm")
    mine = {one.name for one in MODELS if one.hub == "timm" and one.weights}
    assert mine == set(timm.list_models(pretrained=True))
    assert {one.architecture for one in MODELS if one.hub == "timm"} == set(timm.list_models())


def test_what_is_counted_is_what_is_scored() -> None:
    """On the meta device and on images: the same MACs."""
    spec = "torchvision:mobilenet_v3_small"
    row = find_model(spec, MODELS)
    image = torch.zeros(3, *row.input_size, dtype=torch.uint8)
    count = count_parts({"it": build_stage(spec)}, image)["it"]
    assert count.total == row.macs


def test_families_go_by_names() -> None:
    families = {
        "resnetv2_50x1_bit": "resnetv2",
        "mobilenet_v3_large": "mobilenetv3",
        "dm_nfnet_f0": "nfnet",
        "wide_resnet50_2": "resnet",
        "deit3_small_patch16_224": "deit3",
    }
    assert {name: family_of(name) for name in families} == families


def test_a_model_is_found_by_its_name() -> None:
    default = find_model("torchvision:resnet50", MODELS)
    assert default.weights == "IMAGENET1K_V2"
    assert find_model("torchvision:resnet50?run=bfloat16", MODELS) == default
    assert find_model("torchvision:resnet50.IMAGENET1K_V1", MODELS).top1 == 76.13
    assert (default.architecture, default.family) == ("resnet50", "resnet")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [("resnet152", "'torchvision:resnet152'"), ("zzzzz", "`understudy zoo --name PART`")],
)
def test_an_unknown_name_has_a_hint(spec: str, hint: str) -> None:
    with pytest.raises(ModelError, match="in the catalogue") as found:
        find_model(spec, MODELS)
    assert hint in str(found.value)


def test_selections() -> None:
    by_name = Selection(name="torchvision:resnet*").of(MODELS)
    assert {one.family for one in by_name} == {"resnet"}
    assert Selection(name="RESNET18,vgg11_bn").of(MODELS)
    small = Selection(family="resnet", max_macs=2e9, size=224, classes=1000).of(MODELS)
    assert small
    assert all(one.macs <= 2e9 and one.input_size[0] == 224 for one in small)
    licences = {one.licence for one in Selection(licence="apache*, mit").of(MODELS)}
    assert licences == {"apache-2.0", "mit"}
    assert Selection(licence="*").of(MODELS) != (), "an empty licence fits any pattern"
    assert not Selection(name="no such model").of(MODELS)


RESULTS = "model,img_size,top1,param_count\nnet.a,224,71.5,1\nnet.a,288,72.5,1\n"
TIMES = 'model,infer_img_size,infer_samples_per_sec\nnet,224,"2,000"\n'


def test_published_results_are_joined_by_model_and_size(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(RESULTS)
    (tmp_path / "times.csv").write_text(TIMES)
    published = read_published([tmp_path / "results.csv", tmp_path / "times.csv"])
    net, other = model("net", 1, None), model("other", 2, 60.0)
    twin = replace(net, spec="torchvision:net.V1", top1=70.0)
    larger = replace(net, spec="timm:net.b", input_size=(256, 256))
    joined = join_published([net, other, twin, larger], published)
    assert [(one.top1, one.ms) for one in joined] == [
        (71.5, 0.5),
        (60.0, None),
        (70.0, 0.5),
        (None, None),
    ]


def test_accuracies_on_other_images_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "v2.csv").write_text("model,img_size,top1,top1_diff\nnet.a,224,61,-10\n")
    published = read_published([tmp_path / "v2.csv"])
    joined = join_published([model("net", 1, 71.0), model("other", 2, 70.0)], published)
    assert [one.top1 for one in joined] == [61.0, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has none"),
        ("a,b\n1,2\n", "has a, b"),
        (RESULTS + "net.b,224,many,1\n", "has 'many' as top1 of 'net.b'"),
        (RESULTS + "net.b,224\n", "has None as top1 of 'net.b'"),
        (RESULTS + "net.b,224,nan,1\n", "has 'nan' as top1"),
        (TIMES + "net.b,224,0\n", "has '0' as infer_samples_per_sec"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match="published") as found:
        read_published([tmp_path / "a.csv"])
    assert message in str(found.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"model,img_size,top1\n\xff\xfe")
    for name in ("a.csv", "absent.csv", "."):
        with pytest.raises(DataError, match="cannot be read"):
            read_published([tmp_path / name])


def test_two_files_of_a_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(RESULTS)
    with pytest.raises(DataError, match="the second file of accuracies"):
        read_published([tmp_path / "a.csv", tmp_path / "a.csv"])


BIG = model("big", 100, 85.0)


def test_suggestions_are_cheap_diverse_and_in_order() -> None:
    big = find_model("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1", MODELS)
    found = suggest(big, MODELS, within=10, most=15)
    savings = [one.saving for one in found.savers if one.saving is not None]
    assert len(savings) == len(found.savers) == 15
    assert savings == sorted(savings, reverse=True)
    assert min(savings) > 0
    assert max(one.cost for one in found.savers) <= 0.1
    families = Counter(one.model.family for one in found.savers)
    assert max(families.values()) <= PER_FAMILY
    assert all(one.model.weights and one.model.classes == 1000 for one in found.savers)


def test_the_frontier_of_suggestions_is_that_of_all_models_in_reach() -> None:
    big = find_model("torchvision:vit_l_16", MODELS)
    known = [one for one in MODELS if one.top1 is not None and one.macs <= 0.2 * big.macs]
    for saver in suggest(big, MODELS, within=20).savers:
        own = saver.model
        place = own.macs, -(own.top1 or 0)
        better = [
            one
            for one in known
            if one.macs <= place[0]
            and -(one.top1 or 0) <= place[1]
            and (one.macs, -(one.top1 or 0)) != place
        ]
        assert saver.frontier == (not better)


def test_unknown_accuracies_stay_unknown() -> None:
    models = [model("a1", 1, 80.0), model("b1", 1, None), model("c1", 2, None)]
    found = suggest(BIG, models)
    assert [one.model.architecture for one in found.savers] == ["a1"]
    assert found.unknown == 2


def test_without_the_large_model_s_accuracy_savers_are_spread_over_costs() -> None:
    names = ["aa", "bb", "cc", "dd"]
    models = [model(name, cost, 70 + cost) for name, cost in zip(names, (1, 3, 9, 27), strict=True)]
    found = suggest(replace(BIG, top1=None), models, most=4)
    assert [one.model.architecture for one in found.savers] == names
    assert [one.saving for one in found.savers] == [None] * 4


def test_without_any_accuracy_savers_are_spread_over_costs() -> None:
    models = [model(name, cost, None) for name, cost in (("aa", 1), ("ab", 1.01), ("cc", 30))]
    found = suggest(BIG, models, most=2)
    assert [one.model.architecture for one in found.savers] == ["ab", "cc"]
    assert [one.frontier for one in found.savers] == [None, None]
    assert suggest(BIG, []).savers == ()


def test_published_times_rank_savers_instead_of_macs() -> None:
    """One with few MACs that is slow: depthwise convolutions, for instance."""
    big = replace(BIG, ms=10.0)
    models = [
        model("slow", 1, 82.0, ms=4.0),
        model("fast", 4, 82.0, ms=0.5),
        model("untimed", 1, 83.0),
    ]
    found = suggest(big, models)
    assert found.unit == "ms"
    assert [one.model.architecture for one in found.savers] == ["fast", "slow"]
    assert found.untimed == 1
    assert suggest(BIG, models).savers[0].model.architecture == "untimed"


def test_equal_definitions_are_suggested_once() -> None:
    first = model("net", 1, 80.0)
    other = replace(first, spec="torchvision:net.V1", top1=79.0)
    found = suggest(BIG, [first, other])
    assert [one.model.spec for one in found.savers] == [first.spec]


def test_other_classes_are_no_savers() -> None:
    assert not suggest(BIG, [model("a", 1, 80.0, classes=21841)]).savers
    with pytest.raises(ModelError, match="feature extractor"):
        suggest(replace(BIG, classes=0), MODELS)


def test_the_expected_saving_of_a_pair() -> None:
    saving = expected_saving(BIG, model("net", 10, 80.0), "MACs")
    assert saving == pytest.approx(1 - 0.1 - 0.337 * 0.2 - 3.02 * 0.05)
    assert expected_saving(BIG, model("net", 10, None), "MACs") is None


def test_results_of_timm_are_joined(shared: Path) -> None:
    """The result files of timm: every accuracy at the size that `score` runs is joined."""
    folder = shared / "timm"
    files = sorted(folder.glob("benchmark-infer-amp*.csv"))
    published = read_published([folder / "results-imagenet.csv", *files])
    assert isinstance(published, PublishedResults)
    joined = join_published(MODELS, published)
    assert sum(one.hub == "timm" and one.top1 is not None for one in joined) >= 1266
    assert sum(one.ms is not None for one in joined) > 1000
    resnet = find_model("torchvision:resnet152", joined)
    assert resnet.ms == find_model("timm:resnet152", joined).ms
    assert suggest(resnet, joined).unit == "ms"
