"""The public names of this package and where they are defined."""

from understudy.serving.asgi import ServingApp as ServingApp
from understudy.serving.asgi import app as app
from understudy.serving.settings import ServingSettings as ServingSettings

__all__: list[str]
