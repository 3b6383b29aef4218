"""Networks as captured graphs, cut into segments."""

from understudy.extras import require

require("torch", purpose=__name__)
