"""Whether a running cascade answers as `evaluate` says."""

from __future__ import annotations

import numpy as np

from understudy.outcome import decide
from understudy.policy import Policy, PolicyStage, midpoint
from understudy.runtime.protocol import Answers
from understudy.scores import ScoreTable


def random_policy(table: ScoreTable, random: np.random.Generator) -> Policy:
    """Some exits in the order of the table, each with a threshold that some samples reach."""
    count = len(table.names)
    chosen = np.flatnonzero(random.random(count - 1) < 0.6)
    steps = []
    for row in chosen:
        seen = np.unique(table.confidence["max_softmax"][row].astype(float))
        place = random.choice(np.argsort(np.diff(seen))[-30:])  # a wide gap, as in a trained net
        steps.append(
            PolicyStage(
                table.names[row], float(midpoint(float(seen[place]), float(seen[place + 1])))
            )
        )
    return Policy((*steps, PolicyStage(table.names[-1])))


def agree(table: ScoreTable, policy: Policy, answers: Answers) -> None:
    """Answers and exits are those of `evaluate`, but for samples that touch a threshold."""
    decisions = decide(table, policy)
    near = np.zeros(len(table), bool)
    for stage in policy.stages[:-1]:
        assert stage.threshold is not None
        sure = table.confidence[stage.confidence][table.index(stage.exit)]
        near |= np.abs(sure - stage.threshold) <= 1e-5 * abs(stage.threshold)
    names = np.array([policy.exits[number] for number in decisions.stage])
    assert near.mean() < 0.05
    assert (np.array(answers.exit_names())[~near] == names[~near]).all()
    assert (answers.prediction[~near] == decisions.prediction[~near]).all()
