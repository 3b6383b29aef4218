"""PyTorch stages and cascades, and what they cost."""

from understudy.extras import require

require("torch", purpose=__name__)
