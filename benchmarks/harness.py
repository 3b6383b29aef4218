"""What every benchmark shares: where the data lie, what machine this is, how results are kept.

    python benchmarks/NAME.py [--json] [--record]

`--record` writes what was measured to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def shared() -> Path:
    """The folder of real data; the benchmark ends with a sentence where it is absent."""
    folder = Path(os.environ.get("UNDERSTUDY_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        sys.exit(
            f"this benchmark needs the real data, {folder} is no folder (set UNDERSTUDY_SHARED)"
        )
    return folder


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **_versions("numpy", "polars", "torch"),
        **_accelerator(),
    }


def peak_gb() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    *,
    claim: str,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Measure, print, keep; exit code 1 where the claim is not met."""
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=claim)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--record", action="store_true", help=f"write results/{name}.json")
    if options is not None:
        options(parser)
    arguments = parser.parse_args()
    kept = [text for text in sys.argv[1:] if text not in {"--json", "--record"}]
    result = {
        "claim": claim,
        "command": " ".join([f"python benchmarks/{name}.py", *kept]),
        "machine": machine(),
        **measure(arguments),
    }
    if arguments.record:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(result))
    else:
        print(json.dumps(result, indent=1))
    sys.exit(0 if result["met"] else 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _accelerator() -> dict[str, Any]:
    """The NVIDIA GPU, where the benchmark uses PyTorch and there is one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "accelerator": properties.name,
        "accelerator_gb": round(properties.total_memory / 1e9, 1),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **_versions("torchvision", "timm", "triton", "onnxruntime", "onnxruntime-gpu"),
    }


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    return (ran.stdout.splitlines() or ["unknown"])[0].strip()
