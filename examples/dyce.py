"""DyCE (arXiv 2403.01695): exits inside a frozen network, and a dial that turns while it runs.

The paper counts what exits would save. Here the rest of the network is really skipped.
"""

from __future__ import annotations

import torch
from digits import SEEN, network, trained, unseen

from understudy import attach, build, score
from understudy.searching.search import search_jointly
from understudy.training.api import fit_exits
from understudy.training.config import TrainingConfig

backbone = trained(network(32, 6))
exits = attach(backbone, {f"blocks.{number}": "mlp1x64" for number in range(4)})
fit_exits(exits, SEEN, config=TrainingConfig(epochs=20))

table = score({"net": exits}, unseen())
result = search_jointly(table, reference="net", max_drop=[1.0, 2.0, 4.0])
print(result)

cascade = build(result, {"net": exits})
images = torch.cat([batch for batch, _ in unseen()])
for drop in (0.0, 1.0, 2.0, 4.0):
    setting = cascade.set_operating_point(max_drop=drop)
    early = sum(name != "net" for name in cascade.answer(images).exit_names()) / len(images)
    print(f"at most {drop:g} points: {early:.0%} leave early, {setting.cost:,.0f} MACs per image")
