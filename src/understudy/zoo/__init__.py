"""Where models and data come from: timm, torchvision, Python; folders, Parquet, digits."""

from understudy.zoo.batches import Batch, batches
from understudy.zoo.cascades import load_cascade
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.models import build_stage, load_stage, named_models
from understudy.zoo.networks import load_network, load_stages
from understudy.zoo.weights import load_weights, read_weights

__all__ = [
    "Batch",
    "DataSet",
    "batches",
    "build_stage",
    "load_cascade",
    "load_network",
    "load_stage",
    "load_stages",
    "load_weights",
    "named_models",
    "open_data",
    "read_weights",
]
