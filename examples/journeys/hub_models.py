"""Two ResNets of transformers, trained on digits and saved to small/ and large/.

They stand for fine-tuned models of a hub; nothing is downloaded.
"""

import torch
from digit_batches import digit_batches
from transformers import ResNetConfig, ResNetForImageClassification


def trained(name: str, width: int, depth: int, epochs: int) -> None:
    """Train a network for a few seconds and save it."""
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1,
        embedding_size=width,
        hidden_sizes=[width, 2 * width],
        depths=[depth, depth],
        layer_type="basic",
        num_labels=10,
        downsample_in_first_stage=False,
    )
    model = ResNetForImageClassification(config).train()
    batches = digit_batches("train")
    optimizer = torch.optim.AdamW(model.parameters())
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(epochs):
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.save_pretrained(name)


trained("small", 8, 1, 6)
trained("large", 24, 2, 8)
