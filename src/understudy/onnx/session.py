"""ONNX Runtime sessions: how an ONNX model is loaded and run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from understudy.errors import MissingExtra, ModelError, unknown

Array = npt.NDArray[Any]

CPU = "CPUExecutionProvider"
_LOG_ERRORS = 3


class Session:
    """An ONNX model that is ready to run.

    Args:
        file: the model, or its bytes.
        part: its name in messages.
        inputs: the names of its inputs in the order in which arrays are given.
        outputs: the names of its outputs.
        providers: of ONNX Runtime, the preferred first.
        threads: the number of threads per operator; by default the number of cores.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        ModelError: no such provider, or a model that cannot be loaded.
    """

    def __init__(
        self,
        file: Path | bytes,
        part: str,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
    ) -> None:
        runtime = onnx_runtime()
        place = "" if isinstance(file, bytes) else f" from {str(file)!r}"
        self._inputs, self._outputs, self.part = tuple(inputs), list(outputs), part
        try:
            self._session = runtime.InferenceSession(
                file if isinstance(file, bytes) else str(file),
                sess_options=_options(runtime, threads),
                providers=list(providers),
            )
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime {runtime.__version__} cannot load {part!r}{place} "
                f"({first_line(error)}): export again with the versions that are installed"
            ) from error
        self._session.disable_fallback()
        if providers[0] not in self._session.get_providers():
            raise ModelError(
                f"ONNX Runtime runs on the requested provider, {providers[0]} cannot be used "
                "here (its libraries do not load): install them, or use the CPU"
            )

    def __call__(self, values: Sequence[Array]) -> list[Array]:
        """The outputs for arrays of the same number of rows."""
        feed = dict(zip(self._inputs, values, strict=True))
        result: list[Array] = self._session.run(self._outputs, feed)
        return result


def onnx_runtime() -> Any:
    """The module `onnxruntime`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("running an exported cascade", "onnx") from error
    return onnxruntime


def check_providers(providers: Sequence[str]) -> None:
    """Refuse providers that this ONNX Runtime was built without.

    Raises:
        ModelError: one of them is unknown.
    """
    known = onnx_runtime().get_available_providers()
    for name in providers:
        if name not in known:
            raise ModelError(unknown("execution provider", name, known, where="this ONNX Runtime"))


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message, cut to a length; without ONNX Runtime's preamble."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line.rpartition(" failed:")[2].strip()[:most]


def _options(runtime: Any, threads: int | None) -> Any:
    """All optimisations; threads that do not spin while those of another session work."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = True
    options.log_severity_level = _LOG_ERRORS
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
