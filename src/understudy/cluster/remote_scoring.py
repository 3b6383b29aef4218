"""What a process elsewhere needs to score shards as the process that asks would."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from understudy.errors import DataError, listed
from understudy.nn.stage import usable_device
from understudy.scoring.shard_scorer import ShardScorer
from understudy.scoring.sources import Sources
from understudy.zoo.batches import MOST, decoding_threads
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.encoded import ContentHash


@dataclass(frozen=True)
class RemoteScoring:
    """What is scored, and how; it is sent to other processes.

    Attributes:
        data: the data spec.
        fingerprint: of the data as they are here.
        content: hashes of their files, as `EncodedImages.hash` has them here; None where there are
            pixels alone.
        sources: what is scored.
        batch, workers, keep_logits, strict: as for `ShardScorer`.
        threads: of PyTorch.
        folder: where relative paths begin, if it is there.
        modules: the folders in which modules are looked for last, those that are there.
    """

    data: str
    fingerprint: str
    content: Mapping[str, Any] | None
    sources: Sources
    batch: int
    workers: int | None
    keep_logits: bool
    strict: bool
    threads: int
    folder: str
    modules: Sequence[str] = ()

    def scorer(self) -> ShardScorer:
        """What scores shards in this process.

        Raises:
            DataError: no data of this spec, or other data.
            ModelError: the device cannot be used.
        """
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        sys.path.extend(one for one in self.modules if one not in sys.path and Path(one).is_dir())
        torch.set_num_threads(self.threads)
        device = self.sources.device.partition(":")[0]  # Ray shows a process its own GPU alone
        images = open_data(self.data)
        self._check_same(images)
        workers = min(self.threads, MOST) if device == "cpu" else decoding_threads()
        return ShardScorer(
            images=images,
            sources=replace(self.sources, device=usable_device(device)),
            batch=self.batch,
            workers=workers if self.workers is None else self.workers,
            keep_logits=self.keep_logits,
            strict=self.strict,
        )

    def _check_same(self, images: DataSet) -> None:
        """Refuse other images than those of the process that scores.

        Raises:
            DataError: the message names some of those that differ.
        """
        differing = "names, labels or sizes" if images.fingerprint != self.fingerprint else ""
        if not differing and images.encoded is not None and self.content is not None:
            changed = images.encoded.changed_since(ContentHash.from_dict(self.content))
            differing = listed((repr(images.ids[position]) for position in changed), 3)
        if differing:
            raise DataError(
                f"every node has the same images, {self.data!r} differs there ({differing}): copy "
                "or mount the same files there"
            )
