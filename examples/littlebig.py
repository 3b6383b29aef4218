"""Little-Big (arXiv 2406.17117): a small model answers where it is confident, a big one the rest.

The paper chooses the threshold on the test set. Here it is chosen on one part of the data,
certified on a second, and measured on a third.
"""

from __future__ import annotations

import torch
from digits import held_out, network, trained

from understudy import build, score, search

models = {"little": trained(network(4, 1)), "big": trained(network(32, 4))}
table = score(models, held_out())
result = search(table, reference="big", max_drop=2.0)
print(result)

cascade = build(result, models)
images = torch.cat([batch for batch, _ in held_out()])
answers = cascade.answer(images)
share = answers.exit_names().count("little") / len(answers)
print(f"the little model answers {share:.0%} of {len(images)} images")
