"""Teach a little model to answer in front of a large one, and compare it with the untaught one.

The untaught model learns the labels alone, from the same images and for as many epochs. The loss of
Gatekeeper (arXiv 2502.19335) then makes the taught one unsure where it is wrong. With so few images
the seed decides as much as the teacher does.
"""

from __future__ import annotations

from dataclasses import replace

from digits import PREPROCESS, TRAINING, held_out, network, trained

from understudy import Stage, score, search
from understudy.training.saver import fit_saver
from understudy.training.saver_config import SaverConfig

big = trained(network(32, 6))
config = SaverConfig()
teaching = replace(config.teaching, epochs=40, batch=64, lr=0.01, flip=False)
config = replace(config, teaching=teaching)

little = {}
for name, objective in (("untaught", "labels"), ("taught", "gatekeeper")):
    little[name] = Stage(network(8, 1), preprocess=PREPROCESS)
    fit_saver(little[name], big, TRAINING, config=replace(config, objective=objective))

table = score({**little, "big": big}, held_out())
for name in little:
    result = search(table.only([name, "big"]), reference="big", max_drop=2.0)
    print(f"{name}: {result.choices[0].verdict}")
