"""A cascade of compiled networks. Run it after folder.sh, in the same folder."""

# -> docs/journeys/production.md#run-with-pytorch
import torch
from understudy import load_cascade

cascade = load_cascade("cascade")
cascade.compile()  # takes the arguments of torch.compile
images = torch.randint(0, 256, (8, 3, 160, 160), dtype=torch.uint8)
print(cascade(images).shape)  # logits, as from the large network
# <-

plain = load_cascade("cascade")
torch.testing.assert_close(cascade(images), plain(images), rtol=1e-3, atol=1e-3)
print("reached: the compiled cascade gives the logits of the cascade")
