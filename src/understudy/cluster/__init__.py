"""Work on Ray: many processes, on this machine or on all machines of a cluster."""

from understudy.extras import require

require("ray", "torch", "starlette", purpose=__name__)
