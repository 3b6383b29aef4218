"""Access to the hub of Hugging Face, and what to do where it cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import ModelError, brief

ALTERNATIVE = "give ?checkpoint=FILE or ?weights=random"
_OFFLINE = (
    "connect to the network, or fetch it elsewhere and copy its folder (give its path) or the "
    "whole cache (HF_HOME, with HF_HUB_OFFLINE=1)"
)


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Set the hub's offline switch where the hub cannot be reached.

    Without it, the hub's client retries for up to some minutes before it reports a model that is
    not cached; the switch is otherwise read from HF_HUB_OFFLINE, once, at import.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # noqa: BLE001 - of requests or httpx, by the version of the hub's client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def downloads(name: str) -> Iterator[None]:
    """Turns what a download raises into one sentence.

    Raises:
        ModelError: it failed.
    """
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the published weights of {name!r} cannot be fetched ({reason}): connect to the "
            f"network, or {ALTERNATIVE}"
        ) from error


def fetched(name: str, files: Sequence[str], *, revision: str | None = None) -> Path:
    """A folder of the cache with some files of a model on the hub, those that there are.

    Args:
        name: as on the hub, OWNER/NAME.
        files: names or patterns such as ``model-*.safetensors``.
        revision: a branch, tag or commit; by default the main branch.

    Raises:
        ModelError: no such model or revision, no right to read it, or a hub that cannot be reached
            where the cache has not this model.
    """
    from huggingface_hub import constants, errors, snapshot_download

    with offline_if_unreachable():
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=[*files]))
        except errors.GatedRepoError as error:
            reason = "its owner asks for consent: accept the terms on its page, and `hf auth login`"
            raise ModelError(f"{name!r} cannot be fetched, {reason}") from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            at = "" if revision is None else f" at the revision {revision!r}"
            raise ModelError(
                f"the hub of Hugging Face has no public {name!r}{at}: check the name, or log in "
                "with `hf auth login` for a private one"
            ) from error
        except Exception as error:
            if constants.HF_HUB_OFFLINE:
                raise ModelError(
                    f"the hub of Hugging Face cannot be reached, or HF_HUB_OFFLINE is set, and "
                    f"{name!r} is not in its cache: {_OFFLINE}"
                ) from error
            raise ModelError(f"{name!r} cannot be fetched ({brief(error)}): {_OFFLINE}") from error
