"""ONNX image classifiers as stages, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from understudy.errors import ModelError, brief, listed, unknown
from understudy.extras import needing
from understudy.json_codec import Stored
from understudy.nn.cost import add_macs
from understudy.nn.stage import Preprocess, Stage
from understudy.onnx.session import CPU, Session, first_line, onnx_runtime
from understudy.zoo.callable_models import refuse_capture
from understudy.zoo.library_models import ARCHITECTURE
from understudy.zoo.onnx_macs import count_onnx
from understudy.zoo.onnx_options import OnnxOptions
from understudy.zoo.spec import Spec

Array = npt.NDArray[Any]
CUDA = "CUDAExecutionProvider"
LEAST = 1e-12  # of a probability, before its logarithm
_PASSED = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")  # values stay
_DTYPES = {1: "float32", 10: "float16", 2: "uint8"}  # of images, by ONNX's numbers
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class OnnxSignature(Stored, what="the signature of an ONNX model", error=ModelError):
    """What an ONNX model takes and gives.

    Attributes:
        input: the name of its input.
        dtype: that of the images: float32, float16 or uint8.
        batch: the number of images that it takes at once; 0 for any.
        layout: nchw or nhwc.
        output: the name of the output that has a row for each image.
        probabilities: whether its values are probabilities rather than logits.
    """

    input: str
    dtype: str
    batch: int
    layout: str
    output: str
    probabilities: bool


class OnnxModel(nn.Module):
    """An ONNX model as a module: its bytes are its state, which is hashed and saved with it.

    It runs on the CPU, or by CUDA where the module is there and ONNX Runtime has it.
    """

    graph: Tensor

    def __init__(self, graph: bytes, signature: OnnxSignature) -> None:
        super().__init__()
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8))
        self.signature = signature
        self._sessions: dict[str, Session] = {}

    def forward(self, ready: Tensor) -> Tensor:
        """Logits (N, C) float32 of preprocessed images (N, C, H, W)."""
        refuse_capture("an ONNX model")
        images = ready.permute(0, 2, 3, 1) if self.signature.layout == "nhwc" else ready
        rows = np.ascontiguousarray(images.cpu().numpy(), self.signature.dtype)
        batch = self.signature.batch
        few = rows[np.arange(batch or 1) % len(rows)]
        add_macs(lambda: count_onnx(self._bytes(), few), samples=len(rows))
        values = self._in_batches(rows) if batch else self._values(rows)
        found = torch.from_numpy(_flat(values)).to(ready.device, torch.float32)
        return found.clamp_min(LEAST).log() if self.signature.probabilities else found

    def _in_batches(self, rows: Array) -> Array:
        """The output for any number of rows of a model that takes a fixed number."""
        batch = self.signature.batch
        wanted = np.minimum(np.arange(-(-len(rows) // batch) * batch), len(rows) - 1)
        parts = [self._values(rows[part]) for part in wanted.reshape(-1, batch)]
        return np.concatenate(parts)[: len(rows)]

    def _values(self, rows: Array) -> Array:
        try:
            return self._session()([rows])[0]
        except Exception as error:
            raise ModelError(
                f"an ONNX model takes images {rows.shape} of {rows.dtype}, it raised "
                f"{first_line(error)}: check ?size=, ?layout= and the model's input"
            ) from error

    def _session(self) -> Session:
        wanted = CUDA if self.graph.is_cuda else CPU
        provider = wanted if wanted in onnx_runtime().get_available_providers() else CPU
        if provider not in self._sessions:
            self._sessions[provider] = Session(
                self._bytes(),
                "an ONNX model",
                inputs=[self.signature.input],
                outputs=[self.signature.output],
                providers=[provider] if provider == CPU else [provider, CPU],
                threads=torch.get_num_threads(),
            )
        return self._sessions[provider]

    def _bytes(self) -> bytes:
        return self.graph.cpu().numpy().tobytes()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        """Take the bytes that were saved, however many."""
        saved = state.get(f"{prefix}graph")
        if isinstance(saved, Tensor) and saved.dtype == torch.uint8:
            self.graph = saved.to(self.graph.device, copy=True)
            self._sessions.clear()
        super()._load_from_state_dict(state, prefix, *more)

    def __getstate__(self) -> dict[str, Any]:
        """Without sessions, which are made again: a copy has its own."""
        return {**super().__getstate__(), "_sessions": {}}  # type: ignore[no-untyped-call]


def onnx_stage(spec: Spec, *, published: bool) -> Stage:  # noqa: ARG001 - has one set of weights
    """The ONNX model of a file, prepared as the options of its spec say.

    Raises:
        ModelError: no ONNX model, one that takes no images or has no such output, or preprocessing
            that is not told.
        MissingExtra: onnx or ONNX Runtime is not installed.
    """
    with needing("onnx: models", extra="export"):
        import onnxruntime  # noqa: F401 - so that its absence is noticed here

        import onnx

    options = OnnxOptions.parse(spec.options, text=spec.text)
    file = Path(spec.target).expanduser()
    graph = _whole(onnx, file)
    model = onnx.load_model_from_string(graph)
    reader = _GraphReader(model.graph, options, spec.text)
    signature, preprocess = reader.signature(), reader.preprocess()
    origin = {ARCHITECTURE: signature.to_dict()}
    return Stage(OnnxModel(graph, signature), preprocess=preprocess, origin=origin)


def onnx_model(spec: Spec, architecture: Mapping[str, Any]) -> OnnxModel:  # noqa: ARG001
    """A model without its bytes, which are saved with it, from what its origin has recorded.

    Raises:
        ModelError: the record is damaged.
    """
    return OnnxModel(b"\0", OnnxSignature.from_dict(architecture))


def _whole(onnx: Any, file: Path) -> bytes:
    """The bytes of a model, with the weights that lie in files beside it.

    Raises:
        ModelError: no ONNX model, or one of more than 2 GB.
    """
    try:
        return bytes(onnx.load(file).SerializeToString())
    except Exception as error:
        raise ModelError(
            f"a model is a whole ONNX file of up to 2 GB, with the files of weights that it names "
            f"beside it, {str(file)!r} is not ({brief(error)}): export it again"
        ) from error


@dataclass(frozen=True)
class _GraphReader:
    """Reads off a graph what its options leave open."""

    graph: Any
    options: OnnxOptions
    text: str

    def signature(self) -> OnnxSignature:
        """What the model takes and gives.

        Raises:
            ModelError: not one input of images, or no output with a row of scores per image.
        """
        taken, output = self._input, self._output()
        kind = taken.type.tensor_type.elem_type
        if kind not in _DTYPES:
            raise ModelError(
                f"an ONNX model takes images as float32, float16 or uint8, {self.text!r} takes "
                f"another type (number {kind} of ONNX): export it with one of these"
            )
        kinds = {"probabilities": True, "logits": False, None: self._ends_in_softmax(output)}
        return OnnxSignature(
            input=taken.name,
            dtype=_DTYPES[kind],
            batch=self._shape[0],
            layout=self._layout,
            output=output,
            probabilities=kinds[self.options.outputs],
        )

    def preprocess(self) -> Preprocess:
        """How uint8 images are prepared.

        Raises:
            ModelError: the options do not tell it, or contradict the graph.
        """
        options, channels = self.options, self._channels
        raw = _DTYPES[self._input.type.tensor_type.elem_type] == "uint8"
        if raw and (options.mean or options.std):
            raise ModelError(
                f"a model of uint8 images normalises by itself, {self.text!r} is one: leave out "
                "mean and std"
            )
        if not raw and (options.mean is None or options.std is None):
            raise ModelError(
                f"an ONNX model does not say how its images are normalised, {self.text!r} lacks "
                "mean and std: add ?mean=0.485,0.456,0.406&std=0.229,0.224,0.225 (those of "
                "ImageNet), or mean=0&std=1 where pixels shall lie between 0 and 1"
            )
        mean, std = options.mean or (0.0,), options.std or (1.0,)
        return Preprocess(
            size=self._size(),
            mean=_per_channel(mean, channels, self.text),
            std=_per_channel(std, channels, self.text),
            scale=1.0 if raw else options.scale,
            crop=options.crop,
            interpolation=options.interpolation,
            squash=options.squash,
        )

    @property
    def _input(self) -> Any:
        weights = {one.name for one in self.graph.initializer}
        inputs = [one for one in self.graph.input if one.name not in weights]
        if len(inputs) != 1:
            raise ModelError(
                f"an image classifier has one input, {self.text!r} has "
                f"{listed(repr(one.name) for one in inputs) or 'none'}: write a factory for it "
                "(py:MODULE:FACTORY)"
            )
        return inputs[0]

    @property
    def _shape(self) -> tuple[int, ...]:
        """The sides of the input, 0 where they are free."""
        dims = self._input.type.tensor_type.shape.dim
        shape = tuple(max(int(one.dim_value), 0) for one in dims)
        if len(shape) != 4:
            raise ModelError(
                f"images have four sides (N, C, H, W) or (N, H, W, C), the input of {self.text!r} "
                f"has {len(shape)}: export it so, or write a factory (py:MODULE:FACTORY)"
            )
        return shape

    @property
    def _layout(self) -> str:
        if self.options.layout is not None:
            return self.options.layout
        last = self._shape[3] in _CHANNELS and self._shape[1] not in _CHANNELS
        return "nhwc" if last else "nchw"

    @property
    def _channels(self) -> int:
        found = self._shape[3 if self._layout == "nhwc" else 1]
        if found not in (0, *_CHANNELS):
            raise ModelError(
                f"images have 1 or 3 channels, in the layout {self._layout} {self.text!r} takes "
                f"{found}: correct ?layout=, or write a factory (py:MODULE:FACTORY)"
            )
        return found or max(len(self.options.mean or ()), 3)

    def _size(self) -> tuple[int, int]:
        shape = self._shape
        height, width = shape[1:3] if self._layout == "nhwc" else shape[2:4]
        given = self.options.size
        if given is None and not (height and width):
            raise ModelError(
                f"images have one size, {self.text!r} takes any: add ?size=N or ?size=HxW"
            )
        if given is not None and any(
            o not in (0, g) for o, g in zip((height, width), given, strict=True)
        ):
            raise ModelError(
                f"images have the size that the model takes, {self.text!r} takes {height}x{width}: "
                "leave out the option size, or correct it"
            )
        return given or (height, width)

    def _output(self) -> str:
        names = [one.name for one in self.graph.output]
        if self.options.output is not None:
            if self.options.output not in names:
                raise ModelError(
                    unknown("output", self.options.output, names, where=repr(self.text))
                )
            return self.options.output
        if len(names) > 1 and "logits" not in names:
            raise ModelError(
                f"one output has the scores of the classes, {self.text!r} has "
                f"{listed(map(repr, names))}: add ?output=NAME"
            )
        return "logits" if "logits" in names else names[0]

    def _ends_in_softmax(self, output: str) -> bool:
        makers = {name: node for node in self.graph.node for name in node.output}
        node = makers.get(output)
        while node is not None and node.op_type in _PASSED:
            node = makers.get(node.input[0])
        return node is not None and node.op_type == "Softmax"


def _per_channel(values: tuple[float, ...], channels: int, text: str) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ModelError(
            f"mean and std have one number, or one for each of {channels} channels, found "
            f"{len(values)} in {text!r}: correct them"
        )
    return values if len(values) == channels else values * channels


def _flat(values: Array) -> Array:
    """(N, C, 1, 1) as (N, C)."""
    ones = values.ndim > 2 and set(values.shape[2:]) == {1}
    return values.reshape(values.shape[:2]) if ones else values
