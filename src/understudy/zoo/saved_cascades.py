"""Saved cascades: a folder of one JSON file and the weights of stages as safetensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from understudy.cascade_file import FORMAT, VERSION, CascadeFile, certificate_in, damaged
from understudy.documents import write_document
from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.serialization import Architecture
from understudy.early_exit.stages import ExitStage
from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import ModelError
from understudy.folders import check_own_folder, replacing_folder
from understudy.model_card import README, ModelCard, model_text
from understudy.nn.cascade import Cascade, EnsembleStage
from understudy.nn.identity import SAMPLE, check_identity, identity_of
from understudy.nn.processor import preprocess_from
from understudy.nn.stage import Stage, uncompiled
from understudy.written_places import CASCADE as NAME
from understudy.zoo.library_models import ARCHITECTURE
from understudy.zoo.models import build_model

ADDED = ("weights", "weights_hash", "preprocess", "dtype", SAMPLE)  # to the origin of a stage


def save_cascade(
    cascade: Cascade,
    path: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a cascade into a folder, whole or not at all; a cascade that is there is replaced.

    Args:
        cascade: every stage has a spec, from which its architecture is built again.
        path: the folder.
        provenance: plain JSON that is kept with it.

    >>> from tempfile import TemporaryDirectory
    >>> from understudy import Policy, build
    >>> from understudy.zoo.models import load_stage
    >>> tiny = load_stage("timm:test_byobnet?weights=random&classes=10")
    >>> with TemporaryDirectory() as folder:
    ...     save_cascade(build(Policy.single("tiny"), {"tiny": tiny}), f"{folder}/cascade")
    ...     sorted(path.name for path in Path(folder, "cascade").iterdir())
    ['README.md', 'cascade.json', 'weights']

    Raises:
        ModelError: a stage without a spec, or a cascade of functions.
        PolicyError: the certificate in the provenance is that of another policy.
        UnderstudyError: the folder cannot be written, or holds something else.
    """
    if not isinstance(cascade, Cascade):
        raise ModelError(
            f"a folder holds a cascade of PyTorch modules, found a {type(cascade).__name__}: save "
            "its result, and build the cascade from it again"
        )
    networks = _networks(cascade)
    models = {
        name: stage
        for name, stage in cascade.stages.items()
        if not isinstance(stage, EnsembleStage | ExitStage)
    }
    bare = [name for name, stage in models.items() if stage.spec is None]
    if bare:
        raise ModelError(
            f"a saved stage is built again from its spec, {bare[0]!r} has none: put a function "
            "that makes the model into a module, and give `build` "
            'Stage(model, origin={"spec": "py:module:function"})'
        )
    certificate_in(cascade.policy, provenance or {})  # refuses that of another policy
    check_own_folder(path, mark=NAME, rule="a cascade goes into a folder of its own")
    files = _file_names((*models, *networks))
    data = {
        "format": FORMAT,
        "version": VERSION,
        "policy": cascade.policy.to_dict(),
        "networks": {
            name: {"made": Architecture.of(network).to_dict(), "weights": files[name]}
            for name, network in networks.items()
        },
        "stages": {name: _entry(stage, files.get(name)) for name, stage in cascade.stages.items()},
        "scores": {name: score.to_dict() for name, score in cascade.scores.items()},
        "frontier": [point.to_dict() for point in cascade.operating_points],
        "classes": None if cascade.classes is None else list(cascade.classes),
        "provenance": dict(provenance or {}),
    }
    with replacing_folder(path) as folder:
        (folder / "weights").mkdir()
        for name, stage in models.items():
            save_model(uncompiled(stage.model), str(folder / files[name]))
        for name, network in networks.items():
            save_model(network, str(folder / files[name]))
        write_document(folder / NAME, data)
        (folder / README).write_text(_card(cascade, provenance or {}).markdown, encoding="utf-8")


def load_cascade(path: str | Path, *, allow_code: Collection[str] = ()) -> Cascade:
    """Read a cascade that `save_cascade` or `understudy build` wrote, on the CPU.

    Architectures are built from the specs in the folder, weights come from its safetensors; nothing
    is downloaded. Code runs only where you allow it.

    Args:
        path: the folder.
        allow_code: the modules that specs ``py:module:factory`` of the folder may import, as
            installed or on `sys.path`; a package stands for all its modules.

    >>> from tempfile import TemporaryDirectory
    >>> from understudy import Policy, build
    >>> from understudy.zoo.models import load_stage
    >>> tiny = load_stage("timm:test_byobnet?weights=random&classes=10")
    >>> with TemporaryDirectory() as folder:
    ...     save_cascade(build(Policy.single("tiny"), {"tiny": tiny}), f"{folder}/cascade")
    ...     load_cascade(f"{folder}/cascade").exits
    ('tiny',)

    Raises:
        ModelError: the folder is no cascade, a newer understudy wrote it, a spec names a module
            that was not allowed, or weights are missing, damaged, or do not fit the architecture
            that the spec builds.
        PolicyError: the policy is damaged, or not the one that its certificate proves.
    """
    folder, file = Path(path), CascadeFile.read(path)
    try:
        return Cascade(
            _SavedModels(folder, allow_code).stages(file),
            file.policy,
            operating_points=file.operating_points,
            scores=file.scores,
            classes=file.classes,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, error) from error


def _card(cascade: Cascade, provenance: Mapping[str, Any]) -> ModelCard:
    """What the folder says of itself to a reader."""
    models = {name: model_text(stage.origin) for name, stage in cascade.stages.items()}
    modules = sorted({text.split(":")[1] for text in models.values() if text.startswith("py:")})
    allowed = f", allow_code={modules}" if modules else ""
    options = "".join(f" --allow-code {module}" for module in modules)
    table = provenance.get("table")
    code = f'from understudy import load_cascade\n\ncascade = load_cascade("."{allowed})'
    return ModelCard(
        cascade.policy,
        cascade.operating_points,
        models,
        (code, f"understudy run . --data folder:images/{options}"),
        classes=None if cascade.classes is None else len(cascade.classes),
        table=table if isinstance(table, Mapping) else None,
    )


def provenance_of(path: str | Path) -> Mapping[str, Any]:
    """The provenance stored with a saved cascade: the origin of its scores and certificate.

    Raises:
        ModelError: the folder is no cascade.
    """
    return CascadeFile.read(path).provenance


def _networks(cascade: Cascade) -> dict[str, ExitNetwork]:
    """The networks whose exits are stages, by name, without the savers inside others."""
    exits = (s for s in cascade.stages.values() if isinstance(s, ExitStage))
    found = {s.name: s.network for s in exits if isinstance(s.network, ExitNetwork)}
    inner = [n.saver_branch.saver for n in found.values() if n.saver_branch is not None]
    return {name: n for name, n in found.items() if not any(n is saver for saver in inner)}


def _entry(stage: Stage, file: str | None) -> Mapping[str, Any]:
    if isinstance(stage, EnsembleStage):
        return stage.origin
    if isinstance(stage, ExitStage):
        return stage.to_origin()
    return {**identity_of(stage), "weights": file}


@dataclass(frozen=True)
class _SavedModels:
    """The models of a cascade's folder, and the modules that their specs may import."""

    folder: Path
    allow_code: Collection[str]

    def stages(self, file: CascadeFile) -> dict[str, Stage | Ensemble]:
        """The stages by exit, and the ensembles among them."""
        networks = {name: self.network(name, entry) for name, entry in file.networks.items()}
        inside = {name: network.stages(name) for name, network in networks.items()}
        return {
            name: ensemble_of(entry)
            or (
                _checked(name, inside[entry["root"]][name], entry)
                if "root" in entry
                else _checked(name, self.stage(name, entry), entry)
            )
            for name, entry in file.stages.items()
        }

    def stage(self, name: str, entry: Mapping[str, Any]) -> Stage:
        """The stage of a whole model, with its weights."""
        stage = self._untrained(entry)
        _load_weights(stage.model, self._file(entry), name)
        return stage

    def network(self, name: str, entry: Mapping[str, Any]) -> ExitNetwork:
        """A network with exits, with its weights."""
        network = Architecture.from_dict(entry["made"]).build(self._untrained)
        _load_weights(network, self._file(entry), name)
        return network

    def _untrained(self, origin: Mapping[str, Any]) -> Stage:
        """A stage with the architecture and preprocessing of an origin, and any weights."""
        spec, preprocess = str(origin["spec"]), origin["preprocess"]
        return Stage(
            build_model(
                spec,
                recorded=origin.get(ARCHITECTURE),
                allow_code=self.allow_code,
                found_in=self.folder / NAME,
            ),
            preprocess=None if preprocess is None else preprocess_from(preprocess),
            origin={key: value for key, value in origin.items() if key not in ADDED},
        )

    def _file(self, entry: Mapping[str, Any]) -> Path:
        """The file of weights: always in one folder, whatever its name."""
        return self.folder / "weights" / Path(entry["weights"]).name


def _checked(name: str, stage: Stage, entry: Mapping[str, Any]) -> Stage:
    check_identity(name, entry, stage, past="saved", remedy="build the cascade again")
    return stage


def _load_weights(model: nn.Module, file: Path, name: str) -> None:
    try:
        saved = load_file(file)
        target = model.state_dict(keep_vars=True)
        for key in saved.keys() & target.keys():
            target[key].data = target[key].data.to(saved[key].dtype)
        load_model(model, file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights of {name!r} cannot be read from {str(file)!r} ({error}): build the "
            "cascade again"
        ) from error
    except RuntimeError as error:
        raise ModelError(
            f"the weights of {name!r} do not fit the model that its spec builds "
            f"({' '.join(str(error).split())[:200]}): use the versions it was built with"
        ) from error


def _file_names(exits: Sequence[str]) -> dict[str, str]:
    """A file under weights/ for each exit: readable, portable, and unique regardless of case."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for name in exits:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:80] or "stage"
        stem, number = plain, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.lower())
        names[name] = f"weights/{stem}.safetensors"
    return names
