"""Little-Big (arXiv 2406.17117): a little model answers what it is sure of, a big one the rest.

The paper tunes its threshold on the test set. Here it is chosen on one part of the data, proved on
a second, and measured on a third.
"""

from __future__ import annotations

import torch
from digits import network, trained, unseen

from understudy import build, score, search

models = {"little": trained(network(4, 1)), "big": trained(network(32, 4))}
table = score(models, unseen())
result = search(table, reference="big", max_drop=2.0)
print(result)

cascade = build(result, models)
images = torch.cat([batch for batch, _ in unseen()])
answers = cascade.answer(images)
share = answers.exit_names().count("little") / len(answers)
print(f"the little model answers {share:.0%} of {len(images)} images")
