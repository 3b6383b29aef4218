"""Certificates: their words and their way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from understudy.certificate import Certificate, PathRun, path_to_runs, runs_to_path
from understudy.errors import PolicyError
from understudy.json_codec import decode, encode
from understudy.policy import Policy, PolicyStage

PROVED = Certificate(
    policy=Policy.pair("tiny", "big", 0.5),
    reference="big",
    kind="gap",
    budget=0.5,
    delta=0.05,
    samples=12_000,
    losses=31,
    gains=20,
    p_value=0.0123,
    path=(Policy.pair("tiny", "big", 0.75), Policy.pair("tiny", "big", 0.5)),
    steps=200,
    samples_needed=15_000,
    looks=1,
    table="ab",
    split={"by": "id"},
)
FALLEN = replace(
    PROVED, policy=Policy.single("big"), losses=0, gains=0, p_value=None, path=(), samples=300
)

steps = st.builds(
    PolicyStage,
    st.sampled_from("abc"),
    st.floats(allow_nan=False),
    st.sampled_from(["margin", "energy"]),
)
chains = st.lists(steps, max_size=3, unique_by=lambda step: step.exit).map(
    lambda some: Policy((*some, PolicyStage("last")))
)


@given(st.lists(chains, max_size=6))
def test_a_path_survives_json(path: list[Policy]) -> None:
    text = json.dumps(encode(path_to_runs(path)), allow_nan=False)
    runs = decode(json.loads(text), tuple[PathRun, ...], what="a path", error=PolicyError)
    assert runs_to_path(runs) == tuple(path)


def test_a_certificate_survives_json() -> None:
    for one in (PROVED, FALLEN):
        assert Certificate.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_it_says_what_it_promises() -> None:
    assert PROVED.words() == (
        "With probability 0.95 the cascade loses against big by at most 0.5 points on new samples "
        "like the 12,000 certify samples (31 losses, 20 gains, p = 0.0123). "
        "The promise ends when the data change."
    )
    assert "disagrees with big" in replace(PROVED, kind="disagreement").words()


def test_it_says_how_many_samples_would_do() -> None:
    assert FALLEN.falls_back
    assert "About 15,000 certify samples would do" in FALLEN.words()
    assert "About" not in replace(FALLEN, samples_needed=None).words()
    assert "About" not in replace(FALLEN, samples_needed=250).words()  # there are 300


def test_it_counts_the_looks() -> None:
    for one in (PROVED, FALLEN):
        assert "look" not in one.words()
        third = replace(one, looks=3).words()
        assert third.startswith(one.words())
        assert "look 3 at the certify samples: the best of several looks" in third
