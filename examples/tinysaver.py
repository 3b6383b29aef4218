"""TinySaver (arXiv 2403.17726): a small model in front of a large one, with exits that refine it.

The saver, the exits of the Exit Sequence Network, the heads and the large network are exits of one
table; one search selects among them, and one cascade runs them.
"""

from __future__ import annotations

import torch
from digits import TRAINING, held_out, network, trained

from understudy import attach, build, score, search
from understudy.training.api import fit_exits
from understudy.training.config import TrainingConfig

big, tiny = trained(network(32, 6)), trained(network(4, 1))
exits = attach(big, {"blocks.1": "linear+saver", "blocks.3": "linear"}, saver={"tiny": tiny})
fit_exits(exits, TRAINING, config=TrainingConfig(epochs=20, weights="tinysaver"))

table = score({"big": exits}, held_out())
result = search(table, reference="big", max_drop=2.0)
print(result)

cascade = build(result, {"big": exits})
images = torch.cat([batch for batch, _ in held_out()])
names = cascade.answer(images).exit_names()
for name in cascade.policy.exits:
    print(f"{name} answers {names.count(name) / len(names):.0%}")
