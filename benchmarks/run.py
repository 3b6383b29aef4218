"""Every benchmark, one after another; those without their data say so and are passed over.

python benchmarks/run.py [--record] [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NO_CLAIM = {
    "run",
    "compare",
    "harness",
    "cifar_nets",
    "jpeg_nets",
    "populations",
    "train_zoo",
    "cost_tables",
    "made_up",
    "device_rounds",
}


def main() -> int:
    options = [text for text in sys.argv[1:] if text.startswith("--")]
    wanted = [text for text in sys.argv[1:] if not text.startswith("--")]
    names = wanted or sorted({file.stem for file in HERE.glob("*.py")} - NO_CLAIM)
    missed = []
    for name in names:
        print(f"== {name}", flush=True)
        ran = subprocess.run([sys.executable, HERE / f"{name}.py", *options], check=False)
        if ran.returncode:
            missed.append(name)
    print(
        f"== {len(names) - len(missed)} of {len(names)} claims met"
        + "".join(f"; not {m}" for m in missed)
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
