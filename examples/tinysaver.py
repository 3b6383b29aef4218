"""TinySaver (arXiv 2403.17726): a tiny model saves the big one work, and exits refine its answer.

The released code records exits that it never trained. Here the saver, the exits of the Exit
Sequence Network and the big model stand in one table, one search and one cascade.
"""

from __future__ import annotations

import torch
from digits import SEEN, network, trained, unseen

from understudy import attach, build, score, search
from understudy.training.api import fit_exits
from understudy.training.config import TrainingConfig

big, tiny = trained(network(32, 6)), trained(network(4, 1))
exits = attach(big, {"blocks.1": "linear+saver", "blocks.3": "linear"}, saver={"tiny": tiny})
fit_exits(exits, SEEN, config=TrainingConfig(epochs=20, weights="tinysaver"))

table = score({"big": exits}, unseen())
result = search(table, reference="big", max_drop=2.0)
print(result)

cascade = build(result, {"big": exits})
images = torch.cat([batch for batch, _ in unseen()])
names = cascade.answer(images).exit_names()
for name in cascade.policy.exits:
    print(f"{name} answers {names.count(name) / len(names):.0%}")
