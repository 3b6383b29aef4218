"""A cascade under torch.compile. Run it after folder.sh, in the same folder."""

# -> docs/journeys/production.md#run-with-pytorch
import torch
from understudy import load_cascade

cascade = load_cascade("cascade")
compiled = torch.compile(cascade)
images = torch.randint(0, 256, (8, 3, 160, 160), dtype=torch.uint8)
print(compiled(images).shape)  # logits, as from the large network
# <-

torch.testing.assert_close(compiled(images), cascade(images), rtol=1e-3, atol=1e-3)
print("reached: the compiled cascade gives the logits of the cascade")
