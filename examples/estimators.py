"""A cascade of scikit-learn estimators, scored, searched, certified and run without PyTorch."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from understudy import Executor, build, score, search

training, rows, training_labels, labels = train_test_split(
    *load_digits(return_X_y=True), train_size=500, random_state=0
)
models = {
    "tiny": LogisticRegression(C=0.01, max_iter=2000).fit(training, training_labels),
    "big": ExtraTreesClassifier(200, random_state=0).fit(training, training_labels),
}

table = score(models, rows, labels, measure=64)
result = search(table, reference="big", max_drop=2.0)
print(result)

cascade = build(result, models)
with Executor(cascade, max_batch=64) as executor:
    batches = (rows[start : start + 100] for start in range(0, len(rows), 100))
    for answers in executor.map(batches):
        print(answers)
