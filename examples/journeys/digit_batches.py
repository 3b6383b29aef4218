"""scikit-learn's digits as a data set of Hugging Face: batches that are dictionaries."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader


def digit_batches(split: str) -> DataLoader:
    """Batches of ``pixel_values`` (N, 1, 16, 16) and ``labels`` (N,); 897 digits to train on."""
    digits, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(digits).float().view(-1, 1, 8, 8) / 16 - 0.5
    pixels = torch.nn.functional.interpolate(pixels, (16, 16), mode="bilinear")
    rows = range(897) if split == "train" else range(897, len(labels))
    samples = [{"pixel_values": pixels[row], "labels": int(labels[row])} for row in rows]
    return DataLoader(samples, batch_size=64, shuffle=split == "train")


loader = digit_batches("val")
