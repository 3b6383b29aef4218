"""Encoded images to tensors."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from understudy.errors import MissingExtra


def decode_image(encoded: bytes) -> Tensor:
    """The pixels of an encoded image (PNG, JPEG, ...) as RGB, uint8 (3, H, W).

    Grey becomes three equal channels, transparency is dropped, of an animation the first frame
    counts. Pillow's errors about damaged images are not caught.

    Raises:
        ValueError: no kind of image that Pillow knows.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("decoding images", "torch") from error
    try:
        with Image.open(BytesIO(encoded)) as image:
            pixels = np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:  # whose own words name an object in memory
        raise ValueError(f"its {len(encoded)} bytes are no known kind of image") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
