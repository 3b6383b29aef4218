"""A cascade as an estimator of scikit-learn."""

from understudy.extras import require

require("sklearn", "scipy", "numba", purpose=__name__)
