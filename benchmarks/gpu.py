"""What cascades, exits, features and training do on an NVIDIA GPU, with random weights on noise.

    python benchmarks/gpu.py [--only PART] [--device cuda|cpu] [--small] [--json] [--record]

Parts, each of some minutes (at most 9) on one GPU of a data centre:

    offline   the largest ConvNeXtV2 that fits, behind a small saver that defers a fifth, batch 256
    online    the same pair for 256 clients that each send the next image once the last is answered
    exits     networks with exits, a quarter of the images answered by each, rows regrouped
    modes     channels-last, precisions, torch.compile and ONNX Runtime beside the model as it is
    features  what exits are trained on, beside plain forward passes
    training  steps of whole networks, with and without bfloat16 and channels-last

The pair and the exits run in the mode channels_last+bfloat16: autocast over float32 weights. Since
weights are random, the threshold of each exit is the quantile of its confidences that gives the
share. Where images lie is in the record, under `images`; contestants are timed in turns, with the
device's work finished before the clock is read.

Needs torch, torchvision, timm, numpy, safetensors and threadpoolctl. ONNX Runtime is measured where
it has a provider for the device (onnxruntime-gpu); that needs onnx, onnxscript and cattrs as well.
Without them the record says why it was left out. `--small` takes tiny networks, to see that all of
it runs, also on a CPU; figures are recorded at full size on a GPU alone. `--only` keeps the other
parts of benchmarks/results/gpu.json: to a machine that starts empty copy that file first.
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import harness
import made_up
import parts
from device_rounds import Way, rates, spread, timed, times_as_fast
from understudy import Cascade, Executor, Policy, build
from understudy.app.bench import bench
from understudy.app.bench_result import EXECUTOR, LARGE, LITTLE, Bench
from understudy.early_exit.network import ExitNetwork, attach, example_image
from understudy.early_exit.taps import even_taps, list_taps
from understudy.errors import UnderstudyError
from understudy.nn.execution_mode import PLAIN, ExecutionMode, with_mode
from understudy.nn.stage import Stage, usable_device
from understudy.onnx.session import check_providers
from understudy.training.features import FeatureExtractor
from understudy.zoo.runnables import PROVIDERS

FAST = ExecutionMode.parse("channels_last+bfloat16")
DEFERRED = 0.2  # of the images, by the saver
ANSWERED = 0.25  # of all images, by each exit
HEAD, EXITS, CLASSES = "linear", 3, 1000
TRAINING_STEPS = 5  # between two looks at the clock

LEAST_OF_IDEAL, LEAST_SPEEDUP = 0.95, 2.5  # offline
LEAST_ONLINE, MOST_P99 = 0.90, 2.0  # as for execution.py on a CPU
LEAST_OF_EXITS, LEAST_OF_PLAIN = 0.92, 0.95
LEAST_MODE, LEAST_TRAINING = 1.05, 1.0  # times as fast as eager, as float32

ON_DEVICE = "uint8 on the device"
NORMALISED = "float32 on the device, normalised"


@dataclass(frozen=True)
class Sizes:
    """What is run: networks of timm, and how many images of which size.

    Attributes:
        large: the first that fits the memory is the large model.
        little: the saver in front of it.
        with_exits: the networks that get exits.
        in_modes: those that run in all modes.
        backbones: those whose features are extracted.
        trained: those that are trained whole.
        modes: by name.
        side: of the images, in pixels.
        images: of a round that runs them all.
        batch: images per batch, of training a half.
        clients: that wait for answers at the same time.
        rounds: of all images.
        brief_rounds: of one batch.
    """

    large: tuple[str, ...]
    little: str
    with_exits: tuple[str, ...]
    in_modes: tuple[str, ...]
    backbones: tuple[str, ...]
    trained: tuple[str, ...]
    modes: tuple[str, ...]
    side: int
    images: int
    batch: int
    clients: int
    rounds: int
    brief_rounds: int


FULL = Sizes(
    large=("convnextv2_huge", "convnextv2_large", "convnextv2_base"),
    little="convnextv2_atto",
    with_exits=("convnextv2_tiny", "resnet152"),
    in_modes=("resnet50", "convnextv2_tiny"),
    backbones=("resnet50", "convnextv2_tiny"),
    trained=("resnet50", "convnextv2_tiny"),
    modes=(
        "channels_last",
        "folded",
        "bfloat16",
        "channels_last+bfloat16",
        "compiled",
        "channels_last+bfloat16+compiled",
    ),
    side=224,
    images=5_120,
    batch=256,
    clients=256,
    rounds=5,
    brief_rounds=15,
)
SMALL = Sizes(
    large=("test_resnet",),
    little="test_byobnet",
    with_exits=("test_resnet",),
    in_modes=("test_byobnet",),
    backbones=("test_byobnet",),
    trained=("test_byobnet",),
    modes=("channels_last+bfloat16",),
    side=32,
    images=20,
    batch=4,
    clients=4,
    rounds=1,
    brief_rounds=1,
)


@dataclass(frozen=True)
class Setting:
    """A device, and what is run on it."""

    device: torch.device
    sizes: Sizes

    def images(self, count: int) -> Tensor:
        """Made-up images on the device."""
        return made_up.images_of(count, self.sizes.side, self.device)

    @property
    def batches_from(self) -> str:
        """Where the images of batches on the host are."""
        pinned = "pinned " if self.device.type == "cuda" else ""
        return f"uint8 in {pinned}host memory, uploaded batch by batch"

    def stage(self, name: str) -> Stage:
        """A network with random weights as a stage on the device."""
        return made_up.stage_of(made_up.network(name, self.device), self.sizes.side)


def offline(setting: Setting) -> dict[str, Any]:
    """The pair over all images, beside each of its models alone and beside the ideal."""
    name, cascade, images = pair(setting)
    found = bench(cascade, images, batch=setting.sizes.batch, rounds=setting.sizes.rounds)
    weighted = of_weighted_sum(found)
    return {
        "large": name,
        "images": setting.batches_from,
        **figures(found),
        "of_weighted_sum": weighted,
        "met": min(found.of_ideal, weighted["median"]) >= LEAST_OF_IDEAL
        and found.speedup >= LEAST_SPEEDUP,
    }


def online(setting: Setting) -> dict[str, Any]:
    """Requests of many clients, to the pair and to the large model alone."""
    sizes = setting.sizes
    name, cascade, images = pair(setting)
    found = bench(cascade, images, batch=sizes.batch, rounds=sizes.rounds, clients=sizes.clients)
    ours, large = found.online[EXECUTOR], found.online[LARGE]
    over = ours.ms["p99"] / large.ms["p99"]
    return {
        "large": name,
        "images": "uint8 in host memory, one by one",
        "clients": sizes.clients,
        "requests_per_second": {each: load.rate for each, load in found.online.items()},
        "ms": {each: dict(load.ms) for each, load in found.online.items()},
        "round_seconds": {each: spread(load.seconds) for each, load in found.online.items()},
        "speedup": ours.rate / large.rate,
        "of_ideal": found.online_of_ideal,
        "p99_over_large": over,
        "met": found.online_of_ideal >= LEAST_ONLINE and over <= MOST_P99,
    }


def exits(setting: Setting) -> dict[str, Any]:
    """Networks with exits, beside themselves without them."""
    found = {name: _exits_of(name, setting) for name in setting.sizes.with_exits}
    met = all(one["of_ideal"] >= LEAST_OF_EXITS for one in found.values())
    return {"images": setting.batches_from, "networks": found, "met": met}


def modes(setting: Setting) -> dict[str, Any]:
    """Networks in other execution modes, and in ONNX Runtime, beside themselves as they are."""
    found = {name: _modes_of(name, setting) for name in setting.sizes.in_modes}
    times = [one["times_as_fast"] for one in found.values()]
    best = {
        mode: max((one[mode]["median"] for one in times if mode in one), default=0.0)
        for mode in setting.sizes.modes
    }
    return {
        "images": ON_DEVICE,
        "float32": float32_settings(),
        "networks": found,
        "onnx_runtime": {name: _in_onnx_runtime(name, setting) for name in setting.sizes.in_modes},
        "best": best,
        "met": all(most >= LEAST_MODE for most in best.values()),
    }


def features(setting: Setting) -> dict[str, Any]:
    """The features that exits are trained on, beside plain forward passes."""
    found = {name: _features_of(name, setting) for name in setting.sizes.backbones}
    ratios = [ratio["median"] for one in found.values() for ratio in one["of_plain"].values()]
    met = min(ratios) >= LEAST_OF_PLAIN
    return {"images": ON_DEVICE, "float32": float32_settings(), "networks": found, "met": met}


def training(setting: Setting) -> dict[str, Any]:
    """Steps of whole networks in float32, and in bfloat16 with channels-last."""
    found = {name: _training_of(name, setting) for name in setting.sizes.trained}
    met = all(
        one["finite"] and one["times_as_fast"]["median"] > LEAST_TRAINING for one in found.values()
    )
    return {"images": NORMALISED, "float32": float32_settings(), "networks": found, "met": met}


PARTS: Mapping[str, Callable[[Setting], dict[str, Any]]] = {
    one.__name__: one for one in (offline, online, exits, modes, features, training)
}


def pair(setting: Setting) -> tuple[str, Cascade, Tensor]:
    """The name of the large model, it behind a saver that defers a fifth, images on the host."""
    sizes = setting.sizes
    images = made_up.on_host(setting.images(sizes.images))
    little = with_mode(setting.stage(sizes.little), FAST)
    name, large = fitting(setting, images[: sizes.batch])
    found = made_up.confidences([little], images, batch=sizes.batch)
    policy = made_up.policy_of({"saver": 1 - DEFERRED}, "large", found)
    return name, build(policy, {"saver": little, "large": large}), images


def fitting(setting: Setting, images: Tensor) -> tuple[str, Stage]:
    """The first of the large networks that takes a batch."""
    for name in setting.sizes.large:
        try:
            stage = with_mode(setting.stage(name), FAST)
            stage(images)
        except torch.OutOfMemoryError:
            print(f"{name} does not fit the memory of {setting.device}", file=sys.stderr)
        else:
            return name, stage
        stage = None
        _free()
    sys.exit(f"none of {', '.join(setting.sizes.large)} fits the memory of {setting.device}")


def figures(found: Bench) -> dict[str, Any]:
    """The rates of a benchmark, with the spread of its rounds."""
    return {
        "reached": dict(found.reached),
        "images_per_second": {name: found.rate(name) for name in found.seconds},
        "round_seconds": {name: spread(values) for name, values in found.seconds.items()},
        "of_ideal": found.of_ideal,
        "speedup": found.speedup,
    }


def of_weighted_sum(found: Bench) -> dict[str, Any]:
    """The cascade's throughput over what both models' own times give, weighted by shares."""
    share = found.reached[found.large] / found.images
    rounds = zip(*(found.seconds[name] for name in (LITTLE, LARGE, EXECUTOR)), strict=True)
    return spread([(little + share * large) / ours for little, large, ours in rounds])


def _exits_of(name: str, setting: Setting) -> dict[str, Any]:
    sizes = setting.sizes
    network = exit_network(name, setting)
    plain, stages = with_mode(network.stage, FAST), network.with_mode(FAST).stages(name)
    images = made_up.on_host(setting.images(sizes.images))
    *early, last = stages
    found = made_up.confidences([stages[exit] for exit in early], images, batch=sizes.batch)
    policy = made_up.policy_of(dict.fromkeys(early, ANSWERED), last, found)
    cascade = build(policy, stages)
    ways = {
        "plain": partial(_over, plain, images, sizes.batch),
        "split, exits off": partial(_over, stages[last], images, sizes.batch),
        "exits": partial(_executed, cascade, images, sizes.batch),
    }
    seconds = timed(ways, setting.device, rounds=sizes.rounds)
    benched = bench(cascade, images, batch=sizes.batch, rounds=sizes.rounds)
    shares = [tap.share for tap in network.taps]
    return {
        "taps": [tap.path for tap in network.taps],
        "macs_left": ANSWERED * sum(shares) + 1 - ANSWERED * len(shares),
        "reached": dict(benched.reached),
        "images_per_second": rates(seconds, len(images)),
        "times_as_fast_as_plain": times_as_fast(seconds, "exits", "plain"),
        "split_over_plain": times_as_fast(seconds, "plain", "split, exits off"),
        "of_ideal": benched.of_ideal,
    }


def exit_network(name: str, setting: Setting) -> ExitNetwork:
    """A network with exits of random weights at even places, on the device."""
    stage = made_up.stage_of(made_up.network(name), setting.sizes.side)
    places = even_taps(list_taps(stage, example_image(stage)), EXITS)
    return attach(stage, {tap.path: HEAD for tap in places}).to(setting.device)


def _over(stage: Stage, images: Tensor, size: int) -> None:
    for some in images.split(size):
        stage(some)


def _executed(cascade: Cascade, images: Tensor, size: int) -> None:
    with Executor(cascade, max_batch=size) as executor:
        for _ in executor.map(images.split(size)):
            pass


def _modes_of(name: str, setting: Setting) -> dict[str, Any]:
    images, model = setting.images(setting.sizes.batch), setting.stage(name).model
    tried: dict[str, Way] = {}
    for mode in ("", *setting.sizes.modes):
        chosen = ExecutionMode.parse(mode) if mode else PLAIN
        stage = made_up.stage_of(copy.deepcopy(model), setting.sizes.side)
        tried[mode or "eager"] = partial(with_mode(stage, chosen), images)
    ways, left_out = usable(tried)
    seconds = timed(ways, setting.device, rounds=setting.sizes.brief_rounds)
    return {
        "images_per_second": rates(seconds, len(images)),
        "times_as_fast": {
            mode: times_as_fast(seconds, mode, "eager") for mode in ways if mode != "eager"
        },
        "left_out": left_out,
    }


def usable(tried: Mapping[str, Way]) -> tuple[dict[str, Way], dict[str, str]]:
    """The ways that run here, and for all others why not."""
    ways: dict[str, Way] = {}
    left_out: dict[str, str] = {}
    for name, way in tried.items():
        try:
            way()
        except (RuntimeError, ImportError, UnderstudyError) as error:
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            ways[name] = way
    return ways, left_out


def _in_onnx_runtime(name: str, setting: Setting) -> dict[str, Any]:
    """A network in ONNX Runtime and in PyTorch, both as cascades of one stage that take arrays."""
    images = setting.images(setting.sizes.batch).cpu()
    stage = made_up.stage_of(made_up.network(name), setting.sizes.side)
    cascade = build(Policy.single(name), {name: stage})
    providers = PROVIDERS[setting.device.type]
    try:
        check_providers(providers)
        from understudy.onnx import export_onnx, load_onnx

        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "onnx"
            export_onnx(cascade, target)
            exported = load_onnx(target, providers=providers)
    except (ImportError, UnderstudyError) as error:
        return {"left_out": str(error)}
    ways: dict[str, Way] = {
        "eager": partial(cascade.to(setting.device).answer, images),
        "onnx runtime": partial(exported.answer, images.numpy()),
    }
    seconds = timed(ways, setting.device, rounds=setting.sizes.brief_rounds)
    return {
        "images": "uint8 in host memory",
        "provider": providers[0],
        "images_per_second": rates(seconds, len(images)),
        "times_as_fast": times_as_fast(seconds, "onnx runtime", "eager"),
    }


def _features_of(name: str, setting: Setting) -> dict[str, Any]:
    """Features of all taps and the logits, so that the whole network runs, as a plain pass does.

    They are compared with the faster of two plain passes, since the extractor chooses the memory
    format and the precision of float32 products itself.
    """
    network, images = exit_network(name, setting), setting.images(setting.sizes.batch)
    ways: dict[str, Way] = {}
    for precision, mode in precisions().items():
        extract = FeatureExtractor(network.with_mode(mode), classifier=None, logits=True)
        plain = with_mode(copy.deepcopy(network.stage), mode)
        last = with_mode(copy.deepcopy(network.stage), replace(mode, channels_last=True))
        ways[f"plain, {precision}"] = partial(plain, images)
        ways[f"plain, channels-last and TF32, {precision}"] = partial(_in_tf32, last, images)
        ways[f"features, {precision}"] = partial(extract, images)
    seconds = timed(ways, setting.device, rounds=setting.sizes.brief_rounds)
    reached = rates(seconds, len(images))
    of_plain = {}
    for precision in precisions():
        passes = [way for way in ways if way.startswith("plain") and way.endswith(precision)]
        fastest = max(passes, key=reached.__getitem__)
        of_plain[precision] = times_as_fast(seconds, f"features, {precision}", fastest)
    return {
        "taps": [tap.path for tap in network.taps],
        "images_per_second": reached,
        "of_plain": of_plain,
    }


def _in_tf32(stage: Stage, images: Tensor) -> Tensor:
    """A plain pass with CUDA's products of float32 in TF32."""
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        return stage(images)
    finally:
        products.fp32_precision = before


def precisions() -> dict[str, ExecutionMode]:
    """Without autocast, and with it."""
    return {"float32": PLAIN, "bfloat16": ExecutionMode.parse("bfloat16")}


def _training_of(name: str, setting: Setting) -> dict[str, Any]:
    batch = setting.sizes.batch // 2
    images = setting.stage(name).prepare(setting.images(batch))
    labels = torch.arange(batch, device=setting.device) % CLASSES
    ways = {
        way: steps_of(made_up.network(name, setting.device), mode, images, labels)
        for way, mode in {"float32": PLAIN, "bfloat16, channels-last": FAST}.items()
    }
    seconds = timed(ways, setting.device, rounds=setting.sizes.brief_rounds)
    return {
        "batch": batch,
        "images_per_second": rates(seconds, batch * TRAINING_STEPS),
        "times_as_fast": times_as_fast(seconds, "bfloat16, channels-last", "float32"),
        "finite": all(math.isfinite(steps()) for steps in ways.values()),
    }


def steps_of(
    model: nn.Module, mode: ExecutionMode, images: Tensor, labels: Tensor
) -> Callable[[], float]:
    """Some steps of all weights of a network, AdamW in a plain loop; returns the last loss."""
    if mode.channels_last:
        model = model.to(memory_format=torch.channels_last)
    images = mode.to_memory_format(images)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=images.is_cuda)
    model.train()

    def run() -> float:
        for _ in range(TRAINING_STEPS):
            with mode.autocast(images.device):
                loss = F.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    return run


def float32_settings() -> dict[str, str]:
    """How PyTorch computes in float32 on a GPU by default: `tf32`, or else as it is."""
    return {
        "matrix products": torch.backends.cuda.matmul.fp32_precision,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
    }


def on_its_own(part: Callable[[Setting], dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """A part with its device, and the most memory that its tensors took there."""
    cuda = setting.device.type == "cuda"
    _free()
    if cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    told = part(setting)
    _free()
    if not cuda:
        return {**told, "device": str(setting.device)}
    peak = torch.cuda.max_memory_allocated(setting.device) / 1e9
    return {**told, "device": torch.cuda.get_device_name(setting.device), "peak_gb": round(peak, 1)}


def _free() -> None:
    """Release what earlier networks took."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    setting = setting_of(arguments)
    taken = {name: partial(on_its_own, part, setting) for name, part in PARTS.items()}
    if _full(setting):
        return parts.measured(taken, arguments.only)
    chosen = {name: part for name, part in taken.items() if arguments.only in ("", name)}
    return parts.measured(chosen, "")  # nothing beside figures that are recorded


def setting_of(arguments: argparse.Namespace) -> Setting:
    """What the options choose; the benchmark ends with a sentence where that cannot be."""
    if not (arguments.device or arguments.small or torch.cuda.is_available()):
        sys.exit("this benchmark needs an NVIDIA GPU, found none (see that it runs: --small)")
    try:
        device = torch.device(usable_device(arguments.device))
    except UnderstudyError as error:
        sys.exit(str(error))
    setting = Setting(device, SMALL if arguments.small else FULL)
    if arguments.record and not _full(setting):
        size = "small" if arguments.small else "full"
        sys.exit(
            f"figures are recorded on an NVIDIA GPU at full size, found {size} size on {device}: "
            "leave out --record"
        )
    return setting


def _full(setting: Setting) -> bool:
    """Whether the figures are those that the project owes."""
    return setting.device.type == "cuda" and setting.sizes is FULL


def _options(parser: argparse.ArgumentParser) -> None:
    parts.add_only(parser, PARTS)
    default = "an NVIDIA GPU if there is one"
    parser.add_argument("--device", choices=["cuda", "cpu"], help=f"by default {default}")
    parser.add_argument("--small", action="store_true", help="tiny networks, to see that it runs")


if __name__ == "__main__":
    harness.main(
        measure,
        claim="on a GPU a pair that defers a fifth reaches .95 of its ideal and 2.5 x the large "
        "model, with 256 clients .90 at a p99 of at most twice the large model's, exits inside "
        "networks .92, and extracting features .95 of a plain forward pass",
        options=_options,
    )
