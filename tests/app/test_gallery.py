"""The report's gallery: kinds of samples, those that are shown, their pictures, the page."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression

import browser
from browser import Page
from command_line import Run, refused
from image_files import encoded
from tables import policies, score_tables
from understudy import evaluate, save_table
from understudy.app.report.gallery import gallery_of
from understudy.app.report.page import write_report
from understudy.app.report.pictures import SHARP, SIDE, Picture, ScoredImages
from understudy.app.report.sample_kinds import (
    EARLY,
    GAINED,
    KINDS,
    LOST,
    MOST_OF_CLASS,
    MOST_PICTURES,
    kinds_of,
    samples_shown,
)
from understudy.choice import Baselines, Choice
from understudy.errors import DataError, TableError, UnderstudyError
from understudy.outcome import class_gaps
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.search import search
from understudy.zoo.data import open_data

TITLES = [kind.title[0] for kind in KINDS]


def kind_of(table: ScoreTable, policy: Policy, reference: str, sample: int) -> str:
    """The title of a sample's kind, by definition."""
    answers = {name: int(table.prediction[table.index(name), sample]) for name in table.names}
    labels = {int(one) for one in table.label_rows[sample]} - {-1} or {answers[reference]}
    right = {name: answer in labels for name, answer in answers.items()}
    for stage in policy.stages:
        by = stage.exit
        if stage.threshold is None:
            break
        values = table.confidence[stage.confidence][table.index(by)]
        if float(values[sample]) >= stage.threshold:
            break
    early = by != policy.exits[-1]
    if right[reference] != right[by]:
        return "Lost" if right[reference] else "Gained"
    if early:
        return "Answered early, right" if right[by] else "Answered early, wrong"
    if not right[by]:
        return "Deferred, wrong"
    return "Deferred without need" if right[policy.exits[0]] else "Rescued"


@given(st.data())
def test_kinds_are_those_of_their_definitions(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    policy, reference = data.draw(policies(table)), data.draw(st.sampled_from(table.names))
    kinds = kinds_of(table, policy, reference)
    found = [TITLES[kind] for kind in kinds]
    assert found == [kind_of(table, policy, reference, row) for row in range(len(table))]
    outcome = evaluate(table, policy, reference=reference)
    assert (found.count("Lost"), found.count("Gained")) == (outcome.losses, outcome.gains)


def digits(spec: str = "digits:heldout", *, labels: bool = True) -> ScoreTable:
    """Two classifiers of the digits: one sees two rows of pixels, the other all."""
    train, data = open_data("digits:train"), open_data(spec)
    pixels = np.stack([train.array(row) for row in range(len(train))]).reshape(len(train), -1)
    seen = np.stack([data.array(row) for row in range(len(data))]).reshape(len(data), -1)
    rows = {}
    for name, columns in (("little", slice(24, 40)), ("large", slice(0, 64))):
        model = LogisticRegression(max_iter=100, tol=0.01)
        model.fit(pixels[:, columns] / 255, train.labels)
        rows[name] = model.predict_proba(seen[:, columns] / 255)
    table = ScoreTable.from_probabilities(
        rows,
        data.labels if labels else None,
        costs={"little": 1.0, "large": 10.0},
        ids=data.ids.tolist(),
    )
    scored = {"data": data.spec, "fingerprint": data.fingerprint}
    return replace(table, provenance={**table.provenance, **scored})


@pytest.fixture(scope="module")
def scored() -> ScoreTable:
    return digits()


@pytest.fixture(scope="module")
def result(scored: ScoreTable) -> Result:
    found = search(scored, max_drop=[3.0, 8.0], reference="large")
    assert all(len(choice.policy.exits) > 1 for choice in found.choices)
    return found


def chosen_of(table: ScoreTable, policy: Policy, reference: str) -> Choice:
    """A choice whose worst classes are measured where they are picked."""
    gaps = class_gaps(table, table, policy, reference=reference)
    outcome = {"all": evaluate(table, policy, reference=reference)}
    return Choice(1.0, policy, outcome, None, Baselines(None, None, 0.0, 0.0), "", gaps)


@settings(max_examples=40)
@given(st.data())
def test_what_is_shown_is_fairly_divided(data: st.DataObject) -> None:
    table = data.draw(score_tables(most=60, least_exits=2))
    reference = table.names[0]
    chosen = [chosen_of(table, data.draw(policies(table)), reference) for _ in range(3)]
    most = data.draw(st.integers(0, 30))
    there = np.array(data.draw(st.lists(st.booleans(), min_size=len(table), max_size=len(table))))
    plans = samples_shown(chosen, table, reference, there, most=most)
    policies_there = {choice.policy for choice in chosen if len(choice.policy.exits) > 1}
    assert {one.choices[0].policy for one in plans} == policies_there
    wanted, sizes = [], []
    for one in plans:
        assert {choice.policy for choice in one.choices} == {one.choices[0].policy}
        counts = []
        for kind, rows in enumerate(one.shown):
            assert len(set(rows.tolist())) == len(rows)
            assert there[rows].all()
            assert (one.kinds[rows] == kind).all()
            members = np.flatnonzero((one.kinds == kind) & there)
            classes = Counter(one.label[members].tolist())
            shown = Counter(one.label[rows].tolist())
            assert max(shown.values(), default=0) <= MOST_OF_CLASS
            counts.append((len(rows), sum(min(MOST_OF_CLASS, count) for count in classes.values())))
            for label, count in classes.items():  # none has two more than one that has more left
                short = shown[label] < min(MOST_OF_CLASS, count)
                assert not short or max(shown.values(), default=0) <= shown[label] + 1
        for shown_of, there_are in counts:
            assert shown_of == there_are or shown_of >= max(size for size, _ in counts) - 1
        sizes.append(sum(size for size, _ in counts))
        wanted.append(sum(size for _, size in counts))
    assert sum(sizes) == min(most, sum(wanted))


def test_the_most_confident_come_first(scored: ScoreTable, result: Result) -> None:
    on = result.with_fitted(scored).on(result.measured_on)
    for one in samples_shown(result.choices, on, "large", np.ones(len(on), bool)):
        sure = on.confidence[one.choices[0].policy.stages[0].confidence][on.index("little")]
        order = [gap.name for gap in one.choices[0].classes]
        for kind in (LOST, EARLY):
            rows = one.shown[kind]
            places = [order.index(str(label)) for label in one.label[rows]]
            assert places == sorted(places)
            for label in set(one.label[rows].tolist()):
                mine = [row for row in rows if one.label[row] == label]
                rest = np.flatnonzero((one.kinds == kind) & (one.label == label))
                assert sure[mine].tolist() == sorted(sure[rest], reverse=True)[: len(mine)]


def test_a_picture_keeps_small_images_and_shrinks_large_ones() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, SHARP, 8), np.uint8)
    picture = Picture.of(small)
    assert picture.sharp
    assert (picture.width, picture.height) == (16, SIDE)
    assert np.array_equal(pixels_of(picture), small.transpose(1, 2, 0))
    grey = rng.integers(0, 256, (1, 8, 8), np.uint8)
    assert np.array_equal(pixels_of(Picture.of(grey)), np.repeat(grey, 3, 0).transpose(1, 2, 0))
    large = Picture.of(np.full((3, 300, 900), 77, np.uint8))
    assert not large.sharp
    assert pixels_of(large).shape == (large.height, large.width, 3) == (37, SIDE, 3)
    assert abs(pixels_of(large).astype(int) - 77).max() <= 2
    assert pixels_of(Picture.of(np.zeros((3, 1, 5000), np.uint8))).shape == (1, SIDE, 3)


def pixels_of(picture: Picture) -> Any:
    content = base64.b64decode(picture.uri.partition(",")[2])
    return np.asarray(Image.open(BytesIO(content)))


def test_captions_say_what_the_table_says(scored: ScoreTable, result: Result) -> None:
    on, data = result.with_fitted(scored).on(result.measured_on), open_data("digits:heldout")
    gallery = gallery_of(result, on, ScoredImages.of(on, data))
    assert gallery.verified
    assert (gallery.missing, gallery.broken, gallery.samples) == (0, (), len(on))
    places = {id: row for row, id in enumerate(on.ids.tolist())}
    pictures = 0
    for plan, choice in zip(gallery.plans, result.choices, strict=True):
        assert [kind.title for kind in plan.kinds] == TITLES
        assert sum(kind.count for kind in plan.kinds) == len(on)
        assert plan.kinds[LOST].count == choice.outcome.losses
        assert plan.kinds[GAINED].count == choice.outcome.gains
        assert plan.early == pytest.approx(choice.outcome.shares["little"])
        assert sum(one.samples for one in plan.classes) == len(on)
        for kind in plan.kinds:
            pictures += len(kind.pictures)
            for one in kind.pictures:
                row = places[one.id]
                label = on.label[row] if on.label is not None else None
                assert one.label == one.group == str(label)
                assert one.little.name == str(on.prediction[on.index("little"), row])
                assert one.reference.name == str(on.prediction[on.index("large"), row])
                assert one.plan.name == str(on.prediction[on.index(one.answered_by), row])
                assert one.plan.right == (one.plan.name == one.label)
                assert ("≥" in one.confidence) == (one.answered_by == "little")
                image = data.array(data.ids.tolist().index(one.id))
                assert np.array_equal(pixels_of(one.picture)[..., 0], image[0])
    assert 20 < pictures <= MOST_PICTURES
    assert sum(gallery.groups.values()) == pictures


def test_without_labels_kinds_are_agreement(tmp_path: Path) -> None:
    table = digits(labels=False)
    found = search(table, max_drop=10.0, reference="large")
    page = found.report(tmp_path / "r.html", table=table, images="digits:heldout").read_text()
    section = page[page.index('<section aria-labelledby="h-gallery"') :]
    section = section[: section.index("</section>")]
    assert "<h4>Disagreeing</h4>" in section
    words = re.sub(r"<(?!img)[^>]*>|data:[^\"]*", "", section)
    assert "The plan answers otherwise than large." in section
    assert "There are no labels" in section
    assert not re.findall(r"Lost|Gained|wrong|lose|labelled|none", words)


def report(scored: ScoreTable, result: Result, folder: Path) -> tuple[str, str]:
    save_table(scored, folder / "table")
    result.save(folder / "result.json")
    return str(folder / "result.json"), str(folder / "table")


def test_the_verb_shows_images(
    scored: ScoreTable, result: Result, run: Run, tmp_path: Path
) -> None:
    saved, table = report(scored, result, tmp_path)
    out = tmp_path / "r.html"
    command = ("report", saved, "--table", table, "--data", "digits:heldout", "--out", out)
    assert run(*command, "--json").json == {"report": str(out), "bytes": out.stat().st_size}
    page = out.read_text()
    shown = re.findall(r'<img src="data:image/png;base64,[\w+/=]+" width="112" height="112" ', page)
    [section] = re.findall(r'id="h-gallery".*?</section>', page, re.DOTALL)
    assert (
        20
        < len(shown)
        == section.count("<figure")
        == section.count("<figcaption>")
        <= MOST_PICTURES
    )
    assert "<script" not in section
    assert re.findall(r'<li><a href="#h-gallery">', page)
    assert all("; the plan answers " in one for one in re.findall(r'alt="([^"]*)"', section))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    write_report(
        result,
        out,
        table=result.with_fitted(scored),
        images=open_data("digits:heldout"),
        source=saved,
    )
    assert out.read_text() == page


def test_images_need_the_table_and_the_data_that_were_scored(
    scored: ScoreTable, result: Result, run: Run, tmp_path: Path
) -> None:
    saved, table = report(scored, result, tmp_path)
    out = ("--out", tmp_path / "r.html")
    left = {"table", "result.json"}
    alone = run("report", saved, "--data", "digits:heldout", *out)
    refused(alone, "without the table: add --table TABLE", tmp_path, left)
    other = run("report", saved, "--table", table, "--data", "digits:", *out)
    refused(other, "'digits:' has others", tmp_path, left)
    unknown = run("report", saved, "--table", table, "--data", "digits:test", *out)
    refused(unknown, "no part 'test' in digits:", tmp_path, left)
    with pytest.raises(UnderstudyError, match="without the table that was searched: give it too"):
        result.report(tmp_path / "r.html", images="digits:heldout")
    assert {path.name for path in tmp_path.iterdir()} == left


def imported(result: Result, scored: ScoreTable, ids: list[str]) -> ScoreTable:
    """A table that does not say which images it was made of."""
    return replace(scored, ids=np.array(ids, object), provenance={})


def test_images_that_are_missing_or_broken_are_counted(
    scored: ScoreTable, result: Result, tmp_path: Path
) -> None:
    ids = [f"{number}.png" for number in range(len(scored))]
    table = imported(result, scored, ids)
    found = search(table, max_drop=3.0, reference="large")
    on = found.with_fitted(table).on(found.measured_on)
    folder = tmp_path / "images"
    folder.mkdir()
    rows = (
        samples_shown(found.choices, on, "large", np.ones(len(on), bool))[0].shown[EARLY].tolist()
    )
    kept = on.ids.tolist()
    for number, id in enumerate(kept):
        (folder / id).write_bytes(encoded(number % 256))
    absent = kept.index(kept[rows[0]])
    (folder / kept[absent]).unlink()
    (folder / kept[rows[1]]).write_bytes(b"no image")
    (folder / "unknown.png").write_bytes(encoded(1))
    gallery = gallery_of(found, on, ScoredImages.of(on, f"folder:{folder}"))
    assert (gallery.missing, gallery.broken) == (1, (kept[rows[1]],))
    assert not gallery.verified
    page = found.report(tmp_path / "r.html", table=table, images=f"folder:{folder}").read_text()
    assert f"1 of the {len(on):,} samples have no image in folder:" in page
    assert f"1 image that was chosen cannot be decoded: {kept[rows[1]]}." in page
    assert "these were found by their ids alone" in page
    for id in kept:
        (folder / id).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of the \d+ chosen .* can .*: mend them"):
        gallery_of(found, on, ScoredImages.of(on, f"folder:{folder}"))
    with pytest.raises(DataError, match=r"none of its .* is among the 900 .*\?key=COLUMN"):
        ScoredImages.of(on, "digits:heldout")


def test_images_that_changed_are_refused(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    data = open_data(f"folder:{tmp_path}")
    assert data.encoded is not None
    scored = ScoreTable.from_predictions(
        {"a": ([0] * 8, [0.5] * 8)}, None, ids=data.ids.tolist(), costs={"a": 1}
    )
    about = {"fingerprint": data.fingerprint, "content": data.encoded.hash().to_dict()}
    table = replace(scored, provenance={**about, "decoding": data.encoded.decoding})
    assert ScoredImages.of(table, data).verified
    with pytest.raises(TableError, match=r"decoded by .*\?orientation=exif"):
        ScoredImages.of(table, f"folder:{tmp_path}?orientation=ignore")
    (tmp_path / "3.png").write_bytes(encoded(4))
    with pytest.raises(TableError, match=r"have changed since \('3.png'\): restore them"):
        ScoredImages.of(table, f"folder:{tmp_path}")


def test_without_a_cascade_there_is_nothing_to_show(scored: ScoreTable, tmp_path: Path) -> None:
    found = search(scored, max_drop=-50.0, reference="large")
    page = found.report(tmp_path / "r.html", table=scored, images="digits:heldout").read_text()
    assert "No plan is a cascade: large or another single exit answers every image." in page


def test_names_of_users_are_escaped_and_missing_labels_are_no_errors(tmp_path: Path) -> None:
    hostile, rng = '<b onclick="x">&', np.random.default_rng(0)
    data = open_data("digits:heldout")
    ids = np.array([f"{hostile}-1 {number}" for number in range(len(data))], object)
    right, sure = rng.random((2, len(data)))
    sets = [0 if number % 2 else None for number in range(len(data))]
    exits = {hostile: ((right > 0.7) & (sure < 0.5), sure), "big": (0 * right, sure)}
    table = ScoreTable.from_predictions(
        {name: (np.asarray(answer, int), values) for name, (answer, values) in exits.items()},
        sets,
        ids=ids.tolist(),
        classes=[f"{hostile}0", f"{hostile}1"],
        costs={hostile: 1, "big": 9},
    )
    found = search(table, max_drop=9.0, reference="big")
    images = replace(data, ids=ids)
    page = found.report(tmp_path / "r.html", table=table, images=images).read_text()
    assert "<b onclick" not in page
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    without = [one for one in figures if "<dd><small>none</small></dd>" in one]
    assert 0 < len(without) < len(figures)
    assert not any('class="wrong"' in one for one in without)
    assert any('class="wrong"' in one for one in figures)
    assert "&gt;&amp;-1 " in page  # ids keep their hyphens


@pytest.mark.slow
def test_photographs_of_cifar_are_shown_with_their_names(shared: Path, tmp_path: Path) -> None:
    spec = f"parquet:{shared}/cifar10/test.parquet"
    data, rng = open_data(spec), np.random.default_rng(0)
    hard, rows = rng.random(len(data)), {}
    assert data.labels is not None
    for name, skill in (("tiny", 0.8), ("big", 0.95)):
        right = hard < skill
        rows[name] = (np.where(right, data.labels, (data.labels + 1) % 10), skill - hard)
    names = [f"class {number}" for number in range(10)]
    table = ScoreTable.from_predictions(
        rows, data.labels, ids=data.ids.tolist(), costs={"tiny": 1, "big": 9}, classes=names
    )
    table = replace(table, provenance={"fingerprint": data.fingerprint, "data": spec})
    found = search(table, max_drop=[0.5, 2.0, 5.0])
    page = found.report(tmp_path / "r.html", table=table, images=spec).read_text()
    assert 60 < page.count("<figure") <= MOST_PICTURES
    assert page.count(">class 3 (") == 1
    assert len(page.encode()) < 1_500_000


@pytest.mark.slow
def test_a_page_of_many_exits_and_photographs_is_small(tmp_path: Path) -> None:
    """50,000 samples, 20 exits, 200 pictures that compress badly."""
    rng = np.random.default_rng(0)
    count, exits = 50_000, 20
    truth, hard = rng.integers(0, 100, count), rng.random(count)
    rows = {}
    for number in range(exits):
        sure = np.clip(1.2 - hard * (1.1 - 0.9 * number / exits), 0, 1)
        answer = np.where(rng.random(count) < sure, truth, (truth + 1) % 100)
        rows[f"exit{number}"] = (answer, sure)
    costs = {name: 2.0**number for number, name in enumerate(rows)}
    table = ScoreTable.from_predictions(rows, truth, costs=costs)
    found = search(table, max_drop=[0.5, 1.0, 2.0])
    noise = rng.integers(0, 256, (3, SIDE, SIDE), np.uint8)
    data = replace(open_data("digits:"), ids=table.ids, labels=None, read=lambda _: noise)
    path = found.report(tmp_path / "r.html", table=table, images=data)
    section = path.read_text().partition('id="h-gallery"')[2].partition("</section>")[0]
    assert section.count("<figure") == MOST_PICTURES
    assert path.stat().st_size <= 5_000_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, scored: ScoreTable, result: Result) -> str:
    path = tmp_path_factory.mktemp("gallery") / "r.html"
    return result.report(path, table=scored, images="digits:heldout").as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


SHOWN = "[...document.querySelectorAll('.gallery figure')].filter(one => one.checkVisibility())"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(375, True), (1280, False)])
def test_the_gallery_in_a_browser(
    page: Page, address: str, axe: str, width: int, dark: bool
) -> None:
    page.errors.clear()
    page.open(address, width=width, dark=dark)
    assert page.errors == []
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(
        "Promise.all([...document.images].map(one => { one.loading = 'eager'; "
        "return one.decode(); })).then("
        "() => [...document.images].every(one => one.naturalWidth === 8))"
    )
    assert page.violations(axe) == []
    assert page.errors == []


@pytest.mark.slow
def test_filters_work_without_script(page: Page, address: str) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(address)
    page.send("Emulation.setScriptExecutionDisabled", value=False)
    page.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for number in (1, 0):
        page.run(f"document.querySelector('#g-plan-{number}').click()")
        assert page.run(f"{SHOWN}.length > 5")
        assert page.run(f"{SHOWN}.every(one => one.closest('.p{number}'))")
    everything = page.run(f"{SHOWN}.length")
    seen = 0
    for option in range(page.run("document.querySelector('#g-class').options.length - 1")):
        page.run(f"document.querySelector('#g-class').value = '{option}'")
        seen += page.run(f"{SHOWN}.length")
        assert page.run(f"{SHOWN}.every(one => one.classList.contains('g{option}'))")
        kinds = "[...document.querySelectorAll('.kind')].filter(one => one.checkVisibility())"
        assert page.run(f"{kinds}.every(one => one.querySelector('.g{option}'))")
    assert seen == everything > 10
