"""Where models and data come from: timm, torchvision, Python; folders, Parquet, digits."""
