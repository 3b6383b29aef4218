"""scikit-learn estimators, names of classes, data frames; the policy as code of a service."""

# -> docs/journeys/predictions.md#scikit-learn
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

rows, digits = load_digits(return_X_y=True)
names = pd.Series(digits).map("digit {}".format)
training, held_out, training_names, held_out_names = train_test_split(
    rows, names, train_size=600, random_state=0
)
small = LogisticRegression(C=0.01, max_iter=2000).fit(training, training_names)
large = ExtraTreesClassifier(200, random_state=0).fit(training, training_names)

from understudy import ScoreTable, search

table = ScoreTable.from_probabilities(
    {
        "small": pd.DataFrame(small.predict_proba(held_out), columns=small.classes_),
        "large": pd.DataFrame(large.predict_proba(held_out), columns=large.classes_),
    },
    held_out_names,
    costs={"µs": {"small": 1.0, "large": 40.0}},  # of one sample; without costs, in shares
)
result = search(
    table,
    reference="large",
    max_drop=2.0,
    at_most_stages=2,
    confidence="max_softmax",
    without=["ensembles"],
)
print(result)

first, _ = result.choice().policy.stages
threshold = first.threshold  # store this number


def answer(rows):
    """Names of classes: those of small where it is confident, those of large for the rest."""
    probabilities = small.predict_proba(rows)
    answers = small.classes_[probabilities.argmax(1)]
    hard = probabilities.max(1) < threshold
    if hard.any():
        answers[hard] = large.predict(rows[hard])
    return answers


print(answer(held_out[:5]))
# <-

# The service gives the answers that the table predicts, sample by sample, and is certified.
from understudy import verify
from understudy.outcome import decide

decided = decide(result.with_fitted(table), result.choice().policy)
assert (answer(held_out) == large.classes_[decided.prediction]).all()
assert not result.choice().certificate.falls_back
assert all(check.holds for check in verify(result, table))
print("reached: certified, and every answer is the table's")
