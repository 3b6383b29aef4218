from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import DataError, ModelError
from understudy.zoo.spec import parse_spec

SCHEMES = {"timm": ("classes", "checkpoint"), "digits": ()}
WORD = st.text(st.characters(exclude_characters="?&="), min_size=1)


@given(target=WORD, classes=WORD, file=WORD)
def test_a_spec_keeps_every_character(target: str, classes: str, file: str) -> None:
    spec = parse_spec(
        f"timm:{target}?classes={classes}&checkpoint={file}=",
        SCHEMES,
        what="model",
        error=ModelError,
    )
    assert (spec.scheme, spec.target) == ("timm", target)
    assert spec.options == {"classes": classes, "checkpoint": f"{file}="}


def test_a_target_may_be_empty() -> None:
    assert parse_spec("digits:", SCHEMES, what="data", error=DataError).target == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "model specs read SCHEME:NAME, found 'resnet18'"),
        ("tim:resnet18", "no model scheme 'tim' in 'tim:resnet18'; did you mean 'timm'"),
        ("timm:a?class=3", "no option 'class' in 'timm:a[?]class=3'; did you mean 'classes'"),
        ("timm:a?classes", "options read key=value"),
        ("timm:a?classes=1&classes=2", "each key once"),
    ],
)
def test_what_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_spec(text, SCHEMES, what="model", error=ModelError)
