"""`understudy report`: one static page from a result, whole in itself."""

from understudy.extras import require

require("jinja2", purpose=__name__)
