"""Which classifiers timm and torchvision have: what they cost, and how accurate they are said to
be. Neither library is imported; the table was made from them (`origin.json` says by what)."""

from understudy.catalogue.models import CatalogueModel, find_model, load_catalogue

__all__ = ["CatalogueModel", "find_model", "load_catalogue"]
