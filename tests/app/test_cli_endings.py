"""How a command ends that cannot do its work: one sentence, whatever is wrong around it."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rich.text import Text

from command_line import Run, refused
from understudy.app.cli import main as command_line
from understudy.app.cli.terminal import answer, note, progress, waiting
from understudy.display import group_of, note_of, plain, table_of

ANSWERS = """
import ctypes, os
from understudy.app.cli import main, terminal
def app():
    os.write(1, b"from the operating system\\n")
    ctypes.CDLL(None).printf(b"kept by the C library until the end\\n")
    terminal.answer("", {{"class": {name!r}}}, as_json=True)
main.app = app
from understudy.__main__ import main
main()
"""
INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
def interrupt(event, details):
    if event == "import" and details[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
from understudy.__main__ import main
sys.argv[1:] = ["search", "none", "--max-drop", "1"]
main()
"""


INTERRUPTED_BESIDE_A_THREAD = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from understudy.app.cli import main
def app():
    threading.Thread(target=time.sleep, args=(600,)).start()
    os.kill(os.getpid(), signal.SIGINT)
main.app = app
from understudy.__main__ import main
main()
"""


def ended(
    *words: str, stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("module", ["typer", "understudy.app.cli.bench", "polars"])
def test_ctrl_c_during_imports_is_one_line(module: str) -> None:
    command = ended("-c", INTERRUPTED.format(module=module))
    assert (command.returncode, command.stdout) == (130, "")
    assert command.stderr == "error: interrupted; finished work is kept\n"


def test_ctrl_c_during_imports_leaves_a_terminal_with_its_cursor() -> None:
    reader, terminal = os.openpty()
    words = [sys.executable, "-c", INTERRUPTED.format(module="polars")]
    command = subprocess.run(words, stderr=terminal, check=False, timeout=60)
    os.close(terminal)
    assert command.returncode == 130
    assert os.read(reader, 200) == (
        b"\r\x1b[K\x1b[?25herror: interrupted; finished work is kept\r\n"
    )
    os.close(reader)


def test_ctrl_c_waits_for_no_thread() -> None:
    command = ended("-c", INTERRUPTED_BESIDE_A_THREAD)
    assert (command.returncode, command.stdout) == (130, "")
    assert command.stderr == "error: interrupted; finished work is kept\n"


def test_ctrl_c_is_left_to_a_caller_that_ignores_it() -> None:
    script = "from signal import SIG_IGN\n"
    script += INTERRUPTED.format(module="polars").replace("signal.default_int_handler", "SIG_IGN")
    command = ended("-c", script)
    assert command.returncode == 2
    assert "'none' is none" in command.stderr


def test_stdout_has_the_json_alone() -> None:
    command = ended("-c", ANSWERS.format(name="café"))
    assert json.loads(command.stdout) == {"class": "café"}
    assert "from the operating system" in command.stderr
    assert "kept by the C library" in command.stderr


@pytest.mark.parametrize("name", ["café", "caf\udce9"])
def test_json_is_escaped_where_stdout_cannot_hold_it(name: str) -> None:
    command = ended("-c", ANSWERS.format(name=name), PYTHONIOENCODING="ascii")
    assert command.returncode == 0, command.stderr
    assert json.loads(command.stdout) == {"class": name}
    assert command.stdout.isascii()


def test_a_spinner_is_for_terminals_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting("connecting to Ray"):
        pass
    assert capsys.readouterr() == ("", "")
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    with waiting("connecting to Ray"):
        pass
    shown = capsys.readouterr().err
    assert "connecting to Ray" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("connecting to Ray")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_shows_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", str(width)), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    with progress("images") as advance:
        for done in (0, 5000, 10_000, 25_000):
            advance("convnextv2_huge.fcmae_ft_in22k_in1k_512", done, 50_000)
    bars = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).splitlines()
    assert max(map(len, bars)) <= width
    assert re.search(r"^conv\w*…\w+ [━╸╺]+ 25000/50000 [\d,.…]+ images/s [-\d]+:[-\d]+", bars[-1])


def test_views_are_printed_to_an_ascii_terminal(table: Path) -> None:
    words = ("-m", "understudy", "search", str(table), "--max-drop", "2")
    command = ended(*words, PYTHONIOENCODING="ascii")
    assert (command.returncode, command.stderr) == (0, "")
    for sign in ("---", " > net2", ">= 9"):
        assert sign in command.stdout
    assert command.stdout.isascii()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_stdout_is_one_sentence() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        command = ended("-m", "understudy", "--version", stdout=full)
    finally:
        os.close(full)
    assert command.returncode == 2
    assert command.stderr.startswith("error: stdout cannot be read or written (No space left")
    assert command.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = ended("-m", "understudy", "--version", stdout=writing)
    finally:
        os.close(writing)
    assert (command.returncode, command.stderr) == (1, "")


@pytest.mark.parametrize("closed", ["1", "2", "0, 1, 2"])
def test_closed_streams_are_no_error(closed: str) -> None:
    close = f"import os\nfor number in ({closed},): os.close(number)\n"
    run = "os.execv(sys.executable, [sys.executable, '-m', 'understudy', '--version'])"
    assert ended("-c", f"import sys\n{close}{run}").returncode == 0


def test_words_that_are_no_text_are_refused(run: Run, tmp_path: Path) -> None:
    refused(run("search", "tab\udcffle", "--max-drop", "1"), r"found 'tab\udcffle'", tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "the work needs more memory than there is (MemoryError): take a smaller"),
        (RuntimeError("CUDA out of memory. Tried"), "more memory than there is (CUDA out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "more memory than there is"),
        (RecursionError("maximum recursion depth exceeded"), "nest less deeply"),
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "'a.csv' cannot be read or"),
        (PermissionError(errno.EACCES, "Permission denied", "b.csv"), "(Permission denied)"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates"), r"found 'a\udcff'"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(command_line, "app", raising(error))
    refused(run("search"), message)


def test_a_bug_is_one_sentence_and_a_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(command_line, "app", raising(KeyError("exit\nname")))
    command = run("search", "table", "--max-drop", 1)
    (details,) = tmp_path.iterdir()
    assert command.exit_code == 70
    assert command.stderr == (
        "error: this is a bug in understudy (KeyError: 'exit\\nname'): please report it with the "
        f"details in {details}\n"
    )
    text = details.read_text()
    assert "'search' 'table' '--max-drop' '1'" in text
    assert "Traceback" in text


def raising(error: Exception) -> object:
    """A command line that raises."""

    def app() -> None:
        raise error

    return app


PICTOGRAM = "py:m:x [bold]a[/] :smile:"


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    note(PICTOGRAM)
    answer(PICTOGRAM, {}, as_json=False)
    views = table_of(PICTOGRAM, [PICTOGRAM], [[PICTOGRAM]]), note_of(PICTOGRAM)
    answer(group_of(*views, Text(PICTOGRAM)), {}, as_json=False)
    captured = capsys.readouterr()
    assert captured.err == f"{PICTOGRAM}\n"
    assert captured.out.count(PICTOGRAM) == 6
    assert plain(group_of(*views)).count(PICTOGRAM) == 4
    refused(run("report", PICTOGRAM), PICTOGRAM)


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    note("a\x1b[31m\u202eb")
    assert capsys.readouterr().err == "a\\x1b[31m\\u202eb\n"


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_page_that_is_written_to_stdout_comes_out_there(place: str) -> None:
    """Though the process keeps stdout for its answer, and sends what else is printed to stderr."""
    result = str(Path(__file__).parent.parent / "gold" / "report_result.json")
    command = ended("-m", "understudy", "report", result, "--out", place)
    assert command.returncode == 0
    assert command.stderr == ""
    page, behind, answer = command.stdout.partition("</html>\n")
    assert page.startswith("<!DOCTYPE html>")
    assert behind
    assert answer.split()[:3] == ["written", "to", place]
