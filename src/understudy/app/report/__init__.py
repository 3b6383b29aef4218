"""`understudy report`: one static page from a result, whole in itself."""

from understudy.extras import require

require("altair", "vl_convert", "jinja2", purpose=__name__)
