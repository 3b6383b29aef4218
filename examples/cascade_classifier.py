"""A cascade as a scikit-learn classifier: logistic regression first, boosted trees for the rest."""

from __future__ import annotations

from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from understudy import CascadeClassifier

X, y = make_classification(6000, n_informative=6, class_sep=1.5, random_state=0)
X, X_new, y, y_new = train_test_split(X, y, test_size=2000, random_state=0)

tiny = LogisticRegression()
big = HistGradientBoostingClassifier(max_iter=50, random_state=0)
clf = CascadeClassifier([("tiny", tiny), ("big", big)], max_drop=1.0).fit(X, y)

print(clf.certificate_.words())
print(f"{clf.saving_:.1%} of the time is saved, {clf.cost_:.4f} ms per sample are left")
for name, one in (*clf.named_estimators_.items(), ("cascade", clf)):
    print(f"{name}: {one.score(X_new, y_new):.1%} accurate on new samples")
