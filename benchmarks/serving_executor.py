"""The executor without HTTP: so many requests at a time in one process.

    python benchmarks/serving_executor.py CASCADE IMAGES.npy CLIENTS

For each line on stdin, a number of seconds, the images per second of a run on stdout.
"""

from __future__ import annotations

import sys
from itertools import count
from time import monotonic

import numpy as np
import torch
import uvloop

from understudy import Executor, load_cascade
from understudy.malloc import keep_freed_memory

WARM = 0.5
POINT = "drop-0.5"


async def rate(
    executor: Executor, images: list[torch.Tensor], clients: int, seconds: float
) -> float:
    """Images per second with a closed loop of clients."""
    import asyncio

    numbers, done, begun = count(), 0, monotonic()

    async def client() -> None:
        nonlocal done
        while (now := monotonic()) < begun + seconds:
            await executor.answer(images[next(numbers) % len(images)])
            done += now > begun + WARM

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (monotonic() - begun - WARM)


async def main() -> None:
    folder, file, clients = sys.argv[1:]
    keep_freed_memory()
    images = list(torch.from_numpy(np.load(file)))
    cascade = load_cascade(folder, allow_code=["cifar_nets"])
    cascade.set_operating_point(name=POINT)
    async with Executor(cascade) as executor:
        await rate(executor, images, int(clients), 1.0)
        print("ready", flush=True)
        for line in sys.stdin:
            print(await rate(executor, images, int(clients), float(line)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
