from __future__ import annotations

import torch
from torch import nn

from understudy.training.averaging import AveragedWeights


def test_the_average_of_a_long_training_is_exponential() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedWeights(module, 0.5)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    for step in range(1, 30):
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.add_(torch.randn_like(value))
                expected[name] = decay * expected[name] + (1 - decay) * value
        average.update(module)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    with average.applied(module):
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, expected[name])
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())


def test_an_average_continues() -> None:
    module = nn.Linear(2, 2)
    one = AveragedWeights(module, 0.99)
    with torch.no_grad():
        module.weight += 1
    one.update(module)
    two = AveragedWeights(module, 0.99)
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        module.weight += 1
    for average in (one, two):
        average.update(module)
    found = []
    for average in (one, two):
        with average.applied(module):
            found.append(module.weight.clone())
    assert torch.equal(*found)
