"""Image classifiers of transformers, from the hub or a folder, with the processor beside them.

Weights are safetensors, and code is that of transformers alone: nothing is unpickled, and no code
of a repository is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.errors import ModelError, UnderstudyError, brief, listed
from understudy.extras import needing
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage
from understudy.zoo.hf_processor import preprocess_of_processor
from understudy.zoo.hub_access import fetched
from understudy.zoo.library_models import ARCHITECTURE, check_head
from understudy.zoo.model_specs import CONFIG, classes_of, has_safetensors
from understudy.zoo.spec import Spec, existing
from understudy.zoo.weights import read_weights

_SETTINGS = (CONFIG, "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_NAMES = ("id2label", "label2id", "transformers_version", "_name_or_path")  # do not build a model


def hf_stage(spec: Spec, *, published: bool) -> Stage:
    """An image classifier of transformers, with its own weights or with none.

    Raises:
        ModelError: no such model, one that is no image classifier, that needs code of its own or
            has no safetensors, weights for another number of classes, or a processor that cannot
            be used.
        MissingExtra: transformers is not installed.
    """
    with needing("hf: models", extra="hf"):
        import transformers
    folder = _folder(spec, weights=published)
    classes = classes_of(spec)
    with _of_transformers(spec, transformers):
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        if published:
            check_head(spec.target, classes, config.num_labels)
            model = _with_weights(transformers, folder, spec)
        else:
            model = _without_weights(transformers, config, classes)
        preprocess = _preprocess(transformers, folder, config)
    return Stage(model, preprocess=preprocess, origin={ARCHITECTURE: _plain_config(model.config)})


def label_names(model: nn.Module) -> tuple[str, ...] | None:
    """The names of the classes that a model of transformers has; None where it has none of its own.

    >>> label_names(nn.Linear(4, 2)) is None
    True
    """
    named = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(named, Mapping) or sorted(named) != list(range(len(named))):
        return None
    names = tuple(str(named[number]) for number in range(len(named)))
    return None if names == tuple(f"LABEL_{number}" for number in range(len(named))) else names


def hf_model(spec: Spec, architecture: Mapping[str, Any]) -> nn.Module:
    """A model without weights, from what `hf_stage` put into the origin of its stage; offline.

    Raises:
        ModelError: the installed transformers cannot make it.
        MissingExtra: transformers is not installed.
    """
    with needing("hf: models", extra="hf"):
        import transformers
    with _of_transformers(spec, transformers):
        config = transformers.AutoConfig.for_model(**architecture)
        model: nn.Module = _without_weights(transformers, config, None)
        return model


def load_hf_weights(model: nn.Module, file: str | Path, spec: Spec) -> None:
    """Put the weights of a checkpoint, with the names that transformers writes or knows of older
    versions, into a model; all of them have to fit.

    Raises:
        ModelError: the file cannot be read, or tensors are missing, surplus or of another shape.
    """
    import transformers

    state = read_weights(file)
    with _of_transformers(spec, transformers):
        filled, found = type(model).from_pretrained(  # type: ignore[attr-defined]
            None,
            config=model.config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    wrong = {
        "missing": [str(key) for key in found["missing_keys"]],
        "not in the model": [str(key) for key in found["unexpected_keys"]],
        "of another shape": [str(key[0]) for key in found["mismatched_keys"]],
    }
    if any(wrong.values()):
        which = "; ".join(
            f"{len(keys)} {what} ({listed(map(repr, sorted(keys)), 3)})"
            for what, keys in wrong.items()
            if keys
        )
        raise ModelError(
            f"weights fit the model exactly, in {str(file)!r} there are {which}: use the "
            "checkpoint of this very architecture and number of classes (?classes=N)"
        )
    model.load_state_dict(filled.state_dict())


def _folder(spec: Spec, *, weights: bool) -> Path:
    """The local folder with the model's files, those of the hub in its cache."""
    folder = existing(spec.target)
    if folder is None:
        files = (*_SETTINGS, *(_WEIGHTS if weights else ()))
        folder = fetched(spec.target, files, revision=spec.options.get("revision"))
    if not (folder / CONFIG).is_file():
        raise ModelError(f"a model of transformers has a {CONFIG}, {spec.text!r} has none")
    if weights and not has_safetensors(folder):
        raise ModelError(
            f"weights are safetensors, {spec.text!r} has none (pickles are never read): ask its "
            "owner for them, or convert it with model.save_pretrained(FOLDER) where you trust it"
        )
    return folder


def _with_weights(transformers: Any, folder: Path, spec: Spec) -> Any:
    model, found = transformers.AutoModelForImageClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    lacking = sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])})
    if lacking:
        raise ModelError(
            f"a classifier has weights for all its layers, {spec.text!r} has none for "
            f"{listed(map(repr, lacking), 3)}: choose one that was trained to classify, or give "
            "?classes=N&checkpoint=FILE"
        )
    return model


def _without_weights(transformers: Any, config: Any, classes: int | None) -> Any:
    if classes is not None:
        config.num_labels = classes
    return transformers.AutoModelForImageClassification.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )


def _preprocess(transformers: Any, folder: Path, config: Any) -> Preprocess:
    processor = transformers.AutoImageProcessor.from_pretrained(
        folder, config=config, trust_remote_code=False, local_files_only=True
    )
    return preprocess_of_processor(processor)


def _plain_config(config: Any) -> dict[str, Any]:
    settings = config.to_diff_dict()
    kept = {key: value for key, value in settings.items() if key not in _NAMES}
    return {**kept, "model_type": config.model_type, "num_labels": config.num_labels}


@contextmanager
def _of_transformers(spec: Spec, transformers: Any) -> Iterator[None]:
    """What transformers raises becomes one sentence; what it prints is left out.

    Raises:
        ModelError: the model cannot be made.
    """
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as error:
        reason = brief(error)
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"code that comes with a model is never run, {spec.text!r} needs its own: write a "
                "factory that loads it if you trust it (py:MODULE:FACTORY)"
            ) from error
        raise ModelError(
            f"{spec.text!r} cannot be made by transformers {transformers.__version__} ({reason}): "
            "give an image classifier with its processor (config.json, preprocessor_config.json)"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
