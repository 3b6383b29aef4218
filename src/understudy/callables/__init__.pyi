"""The public names of this package and where they are defined."""

from understudy.callables.cascade import CallableCascade as CallableCascade
from understudy.callables.stage import CallableStage as CallableStage

__all__: list[str]
