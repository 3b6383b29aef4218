"""Image classifiers of transformers in local folders, and batches that are dictionaries."""

import hub_models  # noqa: F401  (trains and saves small/ and large/, as a user did before)

# -> docs/journeys/hugging-face.md
from transformers import AutoModelForImageClassification
from understudy import build, score, search

models = {
    "small": AutoModelForImageClassification.from_pretrained("small"),
    "large": AutoModelForImageClassification.from_pretrained("large"),
}

from digit_batches import loader

table = score(models, loader)
result = search(table, reference="large", max_drop=2.0)
print(result)

from understudy import Executor

cascade = build(result, models)
with Executor(cascade) as executor:
    for answers in executor.map(loader):
        print(answers.prediction[:10], answers.exit_names()[:10])
# <-

# The cascade gives the answers that the table predicts, sample by sample, and is certified.
import numpy as np
from understudy import verify
from understudy.outcome import decide

decided = decide(result.with_fitted(table), result.choice().policy)
given = np.concatenate([cascade.answer(b["pixel_values"]).prediction for b in loader])
assert (given == decided.prediction).all()
assert not result.choice().certificate.falls_back
assert all(check.holds for check in verify(result, table))
print("reached: certified, and every answer is the table's")
