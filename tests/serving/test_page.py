"""The page of a running server as an operator uses it, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import browser
from axe import axe_core, violations
from browser import Page
from page_server import StandIn, busy, empty, fallen_back, listening, served
from served_cascades import CLASSES, png, random_images, served_cascade
from understudy import chart_layout, serving
from understudy.serving import ServingSettings

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='hacked'\">"
MANY = [f"vit_base_patch16_clip_{k}.laion2b_ft_in12k_in1k" for k in range(11)]
Open = Callable[..., StandIn]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def open_page(page: Page) -> Iterator[Open]:
    """Opens the page of a stand-in and waits for its first figures; no error may have come up."""
    servers = []

    def opened(status: dict[str, Any], *, token: str | None = None, **look: Any) -> StandIn:
        page.errors.clear()
        server = served(StandIn(status, token))
        stand_in = server.__enter__()
        servers.append(server)
        page.open(stand_in.url, **look)
        page.until("document.querySelector('#updated').textContent.startsWith('as of')")
        return stand_in

    yield opened
    page.send("Page.navigate", url="about:blank")
    for server in servers:
        server.__exit__(None, None, None)


def shown(selector: str, text: str) -> str:
    """Whether an element has a text, in JavaScript."""
    element = f"document.querySelector({json.dumps(selector)})"
    return f"{element}?.hidden === false && {element}.textContent.includes({json.dumps(text)})"


def place(page: Page, name: str) -> tuple[float, float]:
    """Where the mark of an operating point is in the window."""
    page.run("document.querySelector('#frontier').scrollIntoView({block: 'center'})")
    at = page.run(
        f"(() => {{ const names = [...document.querySelectorAll('#points th')].map(one => "
        f"one.textContent.replace(' (in use)', '')); const box = document.querySelectorAll("
        f"'#frontier circle.c-best')[names.indexOf({json.dumps(name)})].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    return at[0], at[1]


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "busy": busy,
    "empty": empty,
    "without a watch": lambda: {**busy(), "watch": None, "operating_points": []},
    "no operating point": lambda: {**busy(), "operating_point": None},
    "fallen back": lambda: fallen_back(busy()),
    "many": lambda: busy([*MANY, HOSTILE], count=30),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [360, 1280])
def test_it_shows_any_state_without_an_error(
    open_page: Open, page: Page, case: str, width: int
) -> None:
    open_page(CASES[case](), width=width, dark=width == 360)
    found = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert found <= 0
    assert page.run("document.querySelectorAll('main img:not([src^=blob])').length") == 0
    assert "hacked" not in page.run("document.title")
    assert page.errors == []


def test_the_verdict_comes_first(open_page: Open, page: Page) -> None:
    open_page(busy())
    assert page.text("h1") == "56.0\N{NO-BREAK SPACE}% of the MACs saved"
    lead = page.text("#lead").replace("\N{NO-BREAK SPACE}", " ")
    assert "858 T MACs, 2.41 h of computing, 136.70 in money" in lead
    assert "The watch sees no change" in lead


def test_requests_that_were_not_answered_are_counted(open_page: Open, page: Page) -> None:
    open_page(busy())
    facts = " ".join(page.text("#requests").split())
    assert "refused, as the queue was full 1,204 too late 3 failed 2" in facts
    assert facts.endswith("shadows left out 3")


def test_names_of_users_stay_texts(open_page: Open, page: Page) -> None:
    open_page(busy(["tiny", HOSTILE]))
    assert page.run(shown("#exits", HOSTILE))
    assert page.run(shown("#chart-exits", HOSTILE))


def test_dragging_changes_the_operating_point(open_page: Open, page: Page) -> None:
    server = open_page(busy())
    server.delay = 0.5
    before = server.status["operating_point"]
    first, last = place(page, before), place(page, "drop-0.75")
    page.drag(first, to=(last[0] + 9, last[1] - 9))
    page.until(shown("#asked", "drop-0.75"))
    assert page.text("#point-now") == before, "what is not confirmed is not shown"
    page.until(shown("#point-now", "drop-0.75"))
    page.until("document.querySelector('#asked').hidden")
    assert page.text("#point-under") == "chosen by an operator"
    assert server.changes == ["drop-0.75"]
    assert page.errors == []


def test_what_is_let_go_elsewhere_is_not_asked_for(open_page: Open, page: Page) -> None:
    server = open_page(busy())
    at = place(page, "drop-0.75")
    page.drag((at[0] + 60, at[1] + 60), to=at)
    page.drag(at, to=at, hold=True)
    page.key("Escape")
    page.drag(at, to=place(page, server.status["operating_point"]))
    assert server.changes == []


def test_keys_change_the_operating_point(open_page: Open, page: Page) -> None:
    server = open_page(busy())
    handle = "document.querySelector('[role=slider]')"
    page.run(f"{handle}.focus()")
    assert page.run(f"{handle}.getAttribute('aria-valuetext')").startswith("drop-1.5: at most 1.5")
    page.key("ArrowRight")
    page.key("ArrowUp")
    assert page.run(f"{handle}.getAttribute('aria-valuetext')").endswith("not asked for yet")
    page.until(shown("#point-now", "reference"))
    page.key("Home")
    page.key("Enter")
    page.until(shown("#point-now", "drop-3"))
    page.key("ArrowRight")
    page.key("Escape")
    assert server.changes == ["reference", "drop-3"]
    assert page.run(f"{handle}.getAttribute('aria-valuenow')") == "1"
    assert page.run(f"document.activeElement === {handle}")


def test_an_alarm_is_shown_and_announced_once(open_page: Open, page: Page) -> None:
    server = open_page(busy())
    assert page.text("#alarms") == ""
    page.run(
        "window.changes = 0; new MutationObserver(all => window.changes += all.length)"
        ".observe(document.querySelector('#alarms'), {childList: true, subtree: true})"
    )
    server.status = fallen_back(server.status)
    page.until(shown("#alarms .alarm", "71 of 912 shadowed images"))
    said = page.run("window.changes")
    page.run("new Promise(done => setTimeout(done, 2500))")
    assert page.run("window.changes") == said, "figures of every second are not announced"
    assert page.text("#point-under") == "chosen by the watch"
    page.run("document.querySelector('#reset').click()")
    page.until("document.querySelector('#alarms').textContent === ''")
    assert page.run(shown("#decisions", "reset"))


def test_a_warning_is_no_alarm(open_page: Open, page: Page) -> None:
    status = busy()
    status["watch"]["state"] = "warned"
    open_page(status)
    assert page.run(shown("#alarms .warning", "Shift seen"))
    assert page.run("document.querySelector('.alarm:not(noscript *)') === null")


def test_a_token_is_asked_for_and_a_wrong_one_is_refused(open_page: Open, page: Page) -> None:
    server = open_page(busy(), token="secret")
    assert "who gives the token" in page.text("#latest-note")
    page.run("document.querySelector('#reset').click()")
    page.until(shown("#alarms .alarm", "this needs its token"))
    assert page.run("document.activeElement.id") == "token"
    enter = (
        "document.querySelector('#token').value = {}; document.querySelector('form button').click()"
    )
    page.run(enter.format("'wrong'"))
    page.until("document.querySelector('#alarms').textContent === ''")
    page.run("document.querySelector('#reset').click()")
    page.until(shown("#alarms .alarm", "the token of the server, found another"))
    assert server.status["watch"]["decisions"][-1]["kind"] == "operating-point"
    page.errors.clear()  # the browser lists refused requests
    page.run(enter.format("'secret'"))
    page.run("document.querySelector('#latest').scrollIntoView()")
    page.until("document.querySelector('.pictures img[src^=blob]')")
    page.run("document.querySelector('#to-traffic').click()")
    page.run("document.querySelector('#reset').click()")
    page.until(shown("#decisions", "to the traffic"))
    assert page.text("#alarms") == ""
    assert page.run("localStorage.length") == 0
    assert page.run("document.cookie") == ""
    assert page.errors == []


def test_a_server_that_is_gone_is_said_so(page: Page) -> None:
    page.errors.clear()
    with served(StandIn(busy())) as server:
        page.open(server.url)
        page.until("document.querySelector('#updated').textContent.startsWith('as of')")
        server.status["ready"] = False
        page.until(shown("#alarms .alarm", "Draining"))
    page.until(shown("#alarms .alarm", "Server unreachable"))
    assert page.text("#updated") == "not connected"
    assert page.text("h1").startswith("56.0"), "the last figures stay"
    page.send("Page.navigate", url="about:blank")


HIDE = (
    "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)
CLICK = "document.querySelector('#pause').click()"


@pytest.mark.parametrize(
    ("stop", "go"), [(CLICK, CLICK), (HIDE.format("true"), HIDE.format("false"))]
)
def test_it_asks_nothing_while_paused_or_hidden(
    open_page: Open, page: Page, stop: str, go: str
) -> None:
    server = open_page(busy())
    page.run(stop)
    page.run("new Promise(done => setTimeout(done, 300))")
    server.status["operating_point"] = "drop-3"
    page.run("new Promise(done => setTimeout(done, 1500))")
    assert page.text("#point-now") == "drop-1.5"
    page.run(go)
    page.until(shown("#point-now", "drop-3"))


@pytest.mark.parametrize("dark", [False, True])
def test_charts_are_painted_in_both_schemes(open_page: Open, page: Page, dark: bool) -> None:
    open_page(busy(), dark=dark)
    colours = page.run(
        "[...document.querySelectorAll('canvas')].map(one => { const found = new Set();"
        "const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;"
        "for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255)"
        "found.add(data.slice(at, at + 3).join()); return [...found]; })"
    )
    assert len(colours) == 5
    assert all(len(found) > 2 for found in colours)
    assert ("95,179,234" if dark else "0,114,178") in colours[0]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_exits_have_the_colours_of_the_report(open_page: Open, page: Page, count: int) -> None:
    names = [f"exit{number}" for number in range(count)]
    open_page(empty(names))
    found = page.run(
        "[...document.querySelectorAll('#exits .swatch')].map(one => one.dataset.colour)"
    )
    assert found == [f"light-dark({light}, {dark})" for light, dark in chart_layout.shades(count)]


def test_charts_have_a_table(open_page: Open, page: Page) -> None:
    status = busy()
    open_page(status)
    rows = page.run(
        "[...document.querySelectorAll('#live-table tr')].map(row => "
        "[...row.children].map(one => one.textContent))"
    )
    assert [row[0] for row in rows[:5]] == [
        "images per second",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "MACs saved, %",
    ]
    assert len(rows) == 5 + len(status["exits"])
    assert rows[0][1] == f"{status['series']['throughput'][-1]:.3g}"


def test_the_page_of_a_cascade_that_answers(page: Page) -> None:
    """The real service: images are answered, shown by exit, and the slider changes the policy."""
    page.errors.clear()
    made = serving.app(served_cascade(), settings=ServingSettings(token="secret"))
    images = [png(image) for image in random_images(60, seed=3)]
    with listening(made) as url:
        for image in images:
            httpx.post(f"{url}classify", content=image, headers={"content-type": "image/png"})
        page.open(url)
        page.until("document.querySelector('h1').textContent.endsWith('of the MACs saved')")
        page.run(
            "document.querySelector('#token').value = 'secret';"
            "document.querySelector('form button').click();"
            "document.querySelector('#latest').scrollIntoView()"
        )
        page.until("document.querySelectorAll('.pictures img[src^=blob]').length >= 2")
        assert page.text(".pictures span") in CLASSES
        before = httpx.get(f"{url}operating-point").json()
        assert page.text("#point-now") == before["operating_point"] == "drop-1"
        start = place(page, "drop-1")
        page.drag(start, to=place(page, "drop-0.5"))
        page.until(shown("#point-now", "drop-0.5"))
        page.key("End")
        page.key("Enter")
        page.until(shown("#point-now", "reference"))
        after = httpx.get(f"{url}operating-point").json()
        assert (after["operating_point"], after["chosen_by"]) == ("reference", "operator")
        page.run("document.querySelector('#reset').click()")
        page.until(shown("#decisions", "reset"))
        page.send("Page.navigate", url="about:blank")
    assert page.errors == []


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    return axe_core(request.config)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_serious(
    open_page: Open, page: Page, axe: str, case: str, width: int
) -> None:
    open_page(CASES[case](), token="secret", width=width, dark=width == 360)
    page.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert violations(page, axe) == []
