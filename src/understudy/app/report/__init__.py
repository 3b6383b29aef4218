"""`understudy report`: one static page from a result, whole in itself.

First a typed record (`Report`: what the page says), then the charts, then the template.
"""

from understudy.app.report.page import render, write_report
from understudy.app.report.record import Report

__all__ = ["Report", "render", "write_report"]
