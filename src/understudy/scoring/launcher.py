"""What those that start processes tell them: torchrun, Slurm, Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping

_COUNTS = ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_ARRAY_TASK_COUNT")
_INDICES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")


def own_gpu(environment: Mapping[str, str], gpus: int) -> str | None:
    """The device of this process by its number on its machine; None where that says nothing.

    Args:
        environment: variables of the process.
        gpus: how many it can use.

    >>> own_gpu({"LOCAL_RANK": "3"}, 8), own_gpu({"SLURM_LOCALID": "9"}, 8)
    ('cuda:3', 'cuda:1')
    >>> own_gpu({"LOCAL_RANK": "3"}, 1), own_gpu({}, 8)
    (None, None)
    """
    found = (_number(environment, name) for name in _LOCAL)
    rank = next((number for number in found if number is not None), None)
    return None if rank is None or gpus < 2 else f"cuda:{rank % gpus}"


def sign_of_others(environment: Mapping[str, str]) -> str | None:
    """The variable, with its value, that tells of further processes; None where none does.

    >>> sign_of_others({"WORLD_SIZE": "1", "SLURM_ARRAY_TASK_COUNT": "8"})
    'SLURM_ARRAY_TASK_COUNT=8'
    >>> sign_of_others({"JOB_COMPLETION_INDEX": "2"}), sign_of_others({"WORLD_SIZE": "1"})
    ('JOB_COMPLETION_INDEX=2', None)
    """
    for names, least in ((_COUNTS, 2), (_INDICES, 1)):
        for name in names:
            if (_number(environment, name) or 0) >= least:
                return f"{name}={environment[name]}"
    return None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None
