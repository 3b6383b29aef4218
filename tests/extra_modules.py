"""The modules of the package by name, and the extra that each needs to be imported."""

from __future__ import annotations

from pathlib import Path

import understudy

PACKAGE = Path(understudy.__file__).parent
FILES = {
    ".".join(("understudy", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
BASE = {"numpy", "cattrs", "attrs", "attr", "typer", "rich", "threadpoolctl", "click"}

# The modules of the package that need more than the base to be imported, by prefix.
NEEDED = {
    "search": (
        *("searching", "estimators", "store", "looks", "parquet_files", "import_predictions"),
        *("zoo.parquet_images", "zoo.parquet_column", "app.report"),
        *("reproduction.record", "reproduction.procedures", "app.reproduction_views"),
    ),
    "torch": (
        *("nn", "graph", "early_exit", "scoring", "training", "app.demo", "app.build_cascade"),
        *("zoo.models", "zoo.model_specs", "zoo.weights", "zoo.saved_cascades", "reproduction.run"),
        *("zoo.library_models", "zoo.hf_models", "zoo.hf_processor", "zoo.onnx_models"),
        *("zoo.onnx_macs", "zoo.callable_models", "zoo.factories"),
        *("onnx.export", "onnx.export_graph", "onnx.export_preprocess", "onnx.parity"),
    ),
    "serve": ("serving",),
    "ray": ("cluster",),
    "plot": ("plots",),
}


def extra_of(module: str) -> str:
    """The extra that a module of the package needs to be imported; none for the base."""
    name = module.removeprefix("understudy").removeprefix(".")
    for extra, prefixes in NEEDED.items():
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            return extra
    return ""
