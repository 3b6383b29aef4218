"""Folders of cascades that `build` or `export` wrote, ready to run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cascade_file import CascadeFile
from understudy.errors import ModelError, unknown
from understudy.extras import needing
from understudy.onnx.bundle import is_onnx_bundle
from understudy.onnx.cascade import OnnxCascade, load_onnx
from understudy.zoo.decoding import FOLLOW

if TYPE_CHECKING:
    from understudy.nn.cascade import Cascade

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider",)}
"""Device, as torch names it -> execution providers of ONNX Runtime."""


def load_runnable(
    folder: Path,
    device: str | None = None,
    *,
    allow_code: Collection[str] = (),
    threads: int | None = None,
) -> Cascade | OnnxCascade:
    """Load what `build` or `export` wrote, ready to run.

    Args:
        folder: what was written.
        device: where to compute, as torch names it; by default an NVIDIA GPU if there is one, else
            the CPU. An exported cascade runs on `cpu`, its default, or `cuda`.
        allow_code: the modules that specs of the folder may import; an exported cascade has none.
        threads: of ONNX Runtime per operator, for an exported cascade; by default one per core.
            Those of PyTorch are the process's.

    Raises:
        ModelError: the folder is neither, there is no such device, or a spec names a module that
            was not allowed.
        MissingExtra: PyTorch, or ONNX Runtime for an exported cascade, is not installed.
    """
    if not is_onnx_bundle(folder):
        with needing(f"a cascade that was not exported ({str(folder)!r})", extra="torch"):
            from understudy.nn.stage import usable_device
            from understudy.zoo.saved_cascades import load_cascade

        return load_cascade(folder, allow_code=allow_code).to(usable_device(device))
    if device not in (None, *PROVIDERS):
        raise ModelError(unknown("device", str(device), PROVIDERS, where="an exported cascade"))
    return load_onnx(folder, providers=PROVIDERS[device or "cpu"], threads=threads)


def orientation_of(folder: Path) -> str:
    """What was done about the EXIF orientation of the images that a cascade was scored on."""
    if is_onnx_bundle(folder):
        return FOLLOW
    provenance = CascadeFile.read(folder).provenance.get("table", {}).get("provenance", {})
    return str(provenance.get("decoding", {}).get("orientation", FOLLOW))
