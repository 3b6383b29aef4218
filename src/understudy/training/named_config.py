"""Configurations in TOML: those of the papers by name, and files of your own."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from understudy.early_exit.exit_sequence import SequenceSize
from understudy.errors import ModelError
from understudy.json_codec import Stored, decode, stored
from understudy.training.config import TrainingConfig

NAMES = ("dyce", "tinysaver")
"""The configurations of the package."""

ALL: Literal["all"] = "all"
Taps = int | Literal["all"] | Sequence[str]
"""How many taps, all that are useful, or their module paths."""

_FOLDER = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class NamedConfig:
    """How exits are trained and, where the configuration says so, which exits.

    Attributes:
        training: the settings of training.
        taps: as for `train_exits`; None where it does not say.
        heads: kinds of heads at every tap; None where it does not say.
        sequence: the size of the Exit Sequence Network; None where it does not say.
    """

    training: TrainingConfig
    taps: Taps | None = None
    heads: tuple[str, ...] | None = None
    sequence: SequenceSize | None = None


@dataclass(frozen=True)
class _Exits(Stored):
    """The settings of exits in a file."""

    taps: str | None = field(default=None, metadata=stored(optional=True))
    heads: tuple[str, ...] | None = field(default=None, metadata=stored(optional=True))
    sequence: SequenceSize | None = field(default=None, metadata=stored(optional=True))


_KEYS = ("taps", "heads", "sequence")


def read_config(name: str | Path) -> NamedConfig:
    """A configuration of the package, by its name, or that in a TOML file.

    A file has settings of `TrainingConfig`, all of them optional, and may have `taps` (a text as
    for `parse_taps`), `heads` (a list) and a table `sequence` with `layers`, `dim` and `heads`.

    Args:
        name: `dyce` or `tinysaver`, the papers' own; or the path of a file.

    >>> config = read_config("tinysaver")
    >>> config.training.epochs, config.training.mixup, config.sequence
    (10, 0.8, SequenceSize(layers=2, dim=512, heads=8))

    Raises:
        ModelError: a file that cannot be read, an unknown setting, or one out of its range.
    """
    if str(name) in NAMES:
        return _config(_FOLDER / f"{name}.toml", f"the configuration {str(name)!r}")
    return _config(Path(name), f"the configuration in {str(name)!r}")


def parse_taps(text: str) -> Taps:
    """Taps as a text names them: `all`, how many, or module paths joined by commas.

    >>> parse_taps("all"), parse_taps("6"), parse_taps("layer1.0, layer2")
    ('all', 6, ['layer1.0', 'layer2'])
    """
    if text.strip() == ALL:
        return ALL
    if re.fullmatch(r"\s*\d{1,9}\s*", text):
        return int(text)
    return [path for part in text.split(",") if (path := part.strip())]


def _config(file: Path, what: str) -> NamedConfig:
    content = read_toml(file, names=NAMES)
    of_exits = {key: content.pop(key) for key in _KEYS if key in content}
    exits = decode(of_exits, _Exits, what=what, error=ModelError, remedy="correct the file")
    training = decode(
        TrainingConfig().to_dict() | content,
        TrainingConfig,
        what=what,
        error=ModelError,
        remedy="correct the file",
    )
    taps = None if exits.taps is None else parse_taps(exits.taps)
    return NamedConfig(training, taps, exits.heads, exits.sequence)


def read_toml(file: Path, *, names: Sequence[str] = ()) -> dict[str, Any]:
    """The settings in a TOML file.

    Args:
        file: the file.
        names: what stands for settings as well, for the message.

    Raises:
        ModelError: it cannot be read, or is none.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"a configuration is {' or '.join([*map(repr, names), 'a TOML file'])}, {str(file)!r} "
            f"cannot be read ({error.strerror}): check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"a configuration is a TOML file, {str(file)!r} is not ({error}): correct it"
        ) from error
