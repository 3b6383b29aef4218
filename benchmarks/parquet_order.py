"""Images of a Parquet file of 1 GB, read in order and in random order, against decoding alone.

    python benchmarks/parquet_order.py [--json] [--record] [--gb 1]

The file is made of mosaics of CIFAR-10 images, JPEG of about 80 kB each, in row groups of 1,000,
in a temporary folder. In turns, one chunk of images after another is read and decoded by the data
set, and decoded alone from bytes in memory, in one thread, so that a load on the machine slows
both; `cpu_ratio` is that of processor time, which a load changes less. `blocks_again_ms` is an
image at random where no block is kept, as before.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from harness import main, peak_gb, shared
from understudy.zoo import parquet_column
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.decoding import decode_image

GOAL = 1.3
TILES = (12, 16)  # rows and columns of 32 x 32 pixels
CHUNK = 500
AGAIN = 100  # images that are read where no block is kept
ROW_GROUP = 1000


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gb", type=float, default=1.0, help="size of the file")


def write_mosaics(file: Path, size: float) -> int:
    """Write a Parquet file of about so many bytes; how many images it has."""
    encoded = pl.read_parquet(shared() / "cifar10" / "test.parquet", columns=["image"])["image"]
    tiles = np.stack([np.array(Image.open(io.BytesIO(one))) for one in encoded])
    random = np.random.default_rng(0)
    rows, columns = TILES
    parts, images, written = [], 0, 0
    while written < size:
        mosaics = []
        for _ in range(ROW_GROUP):
            chosen = tiles[random.integers(len(tiles), size=rows * columns)]
            grid = chosen.reshape(rows, columns, 32, 32, 3).swapaxes(1, 2)
            buffer = io.BytesIO()
            Image.fromarray(grid.reshape(rows * 32, columns * 32, 3)).save(
                buffer, "JPEG", quality=90
            )
            mosaics.append(buffer.getvalue())
        names = [f"{images + number:06}" for number in range(ROW_GROUP)]
        part = file.with_name(f"part-{len(parts):04}")
        labels = random.integers(10, size=ROW_GROUP)
        pl.DataFrame({"name": names, "label": labels, "image": mosaics}).write_ipc(part)
        parts.append(part)
        images += ROW_GROUP
        written += part.stat().st_size
    pl.scan_ipc(parts).sink_parquet(file, row_group_size=ROW_GROUP)
    for part in parts:
        part.unlink()
    return images


def seconds_of(data: DataSet, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds to read and decode images in an order, and to decode them alone, in turns; each as
    wall time and processor time."""
    files = data.encoded
    assert files is not None
    reading, decoding = np.zeros(2), np.zeros(2)
    for start in range(0, len(order), CHUNK):
        chunk = [int(position) for position in order[start : start + CHUNK]]
        begun = clock()
        for position in chunk:
            data.array(position)
        reading += clock() - begun
        alone = {position: files.read(position) for position in chunk}
        begun = clock()
        for position in chunk:
            np.ascontiguousarray(decode_image(alone[position]).transpose(2, 0, 1))
        decoding += clock() - begun
    return reading, decoding


def clock() -> np.ndarray:
    """Wall time and processor time, in seconds."""
    return np.array([perf_counter(), process_time()])


def again_ms(file: Path, order: np.ndarray) -> float:
    """Milliseconds per image at random where no block is kept."""
    jumps = parquet_column.JUMPS
    parquet_column.JUMPS = len(order)
    try:
        data = open_data(f"parquet:{file}")
        begun = perf_counter()
        for position in order[:AGAIN]:
            data.array(int(position))
        return 1e3 * (perf_counter() - begun) / AGAIN
    finally:
        parquet_column.JUMPS = jumps


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="parquet-order-") as folder:
        file = Path(folder) / "images.parquet"
        images = write_mosaics(file, arguments.gb * 1e9)
        found: dict[str, Any] = {"images": images, "gb": file.stat().st_size / 1e9}
        orders = {
            "in_order": np.arange(images),
            "random": np.random.default_rng(1).permutation(images),
        }
        for name, order in orders.items():
            reading, decoding = seconds_of(open_data(f"parquet:{file}"), order)
            found[name] = {
                "read_and_decoded_ms": 1e3 * reading[0] / images,
                "decoded_alone_ms": 1e3 * decoding[0] / images,
                "ratio": reading[0] / decoding[0],
                "cpu_ratio": reading[1] / decoding[1],
            }
        found["blocks_again_ms"] = again_ms(file, orders["random"])
    met = all(bool(found[name]["ratio"] <= GOAL) for name in orders)
    return {**found, "peak_gb": peak_gb(), "goal": GOAL, "met": met}


if __name__ == "__main__":
    main(
        measure,
        claim="1 GB of Parquet is read in random order in at most 1.3 times the time of decoding",
        options=options,
    )
