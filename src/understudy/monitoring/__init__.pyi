"""The public names of this package and where they are defined."""

from understudy.monitoring.decisions import Decision as Decision
from understudy.monitoring.history import History as History
from understudy.monitoring.history import replay as replay
from understudy.monitoring.settings import WatchSettings as WatchSettings
from understudy.monitoring.watch import ShadowTicket as ShadowTicket
from understudy.monitoring.watch import Watch as Watch

__all__: list[str]
