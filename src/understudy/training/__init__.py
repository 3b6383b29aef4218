"""Training the exits of a network: its backbone stays frozen, only heads learn."""

from understudy.extras import require

require("torch", purpose=__name__)
