"""Where `--out` writes: through links, into devices and pipes, with the modes that were there."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from command_line import Run, refused
from tables import synthetic
from understudy.answer_files import save_answers
from understudy.errors import UnderstudyError
from understudy.files import is_stream, only_writer, replacing, write_json
from understudy.folders import recover, remove_folder, replacing_folder
from understudy.locks import InUse, locked
from understudy.store import load_table, save_table

OLDER, NEWER = synthetic(40), synthetic(60)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "result.json", tmp_path / "link"
    target.write_text("older")
    link.symlink_to("folder/result.json")
    write_json(link, 1)
    assert link.is_symlink()
    assert target.read_text() == "1\n"
    target.unlink()
    write_json(link, 2)
    assert link.is_symlink()
    assert target.read_text() == "2\n"
    assert names(tmp_path / "folder") == {"result.json"}


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnderstudyError, match="Too many levels of symbolic links"):
        write_json(tmp_path / "a", 1)
    assert names(tmp_path) == {"a", "b"}


def test_a_table_is_written_through_a_link(tmp_path: Path) -> None:
    save_table(OLDER, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    save_table(NEWER, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(load_table(tmp_path / "real")) == 60
    assert names(tmp_path) == {"real", "link"}


@pytest.mark.parametrize(
    ("mask", "before", "after"), [(0o002, None, 0o664), (0o077, None, 0o600), (0o022, 0o600, 0o600)]
)
def test_a_file_keeps_its_mode_and_a_new_one_follows_the_umask(
    tmp_path: Path, mask: int, before: int | None, after: int
) -> None:
    file = tmp_path / "result.json"
    if before is not None:
        file.touch(before)
    with umask(mask):
        write_json(file, 1)
        save_answers(tmp_path / "answers.csv", {"id": ["a"]})
    assert mode(file) == after
    assert mode(tmp_path / "answers.csv") == 0o666 & ~mask


@pytest.mark.parametrize(
    ("mask", "before", "after"), [(0o002, None, 0o775), (0o077, None, 0o700), (0o022, 0o700, 0o700)]
)
def test_a_folder_keeps_its_modes_and_a_new_one_follows_the_umask(
    tmp_path: Path, mask: int, before: int | None, after: int
) -> None:
    table = tmp_path / "table"
    if before is not None:
        save_table(OLDER, table)
        table.chmod(before)
        (table / "samples.parquet").chmod(0o600)
    with umask(mask):
        save_table(NEWER, table)
    assert mode(table) == mode(table / "exits") & 0o700 | after & 0o077
    assert mode(table) == after
    assert mode(table / "samples.parquet") == (0o600 if before else 0o666 & ~mask)
    assert mode(table / "table.json") == 0o666 & ~mask


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    write_json("/dev/null", 1)
    assert Path("/dev/null").is_char_device()
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, 1)
    reader.join()
    assert read == ["1\n"]
    assert pipe.is_fifo()
    assert names(tmp_path) == {"pipe"}


def test_an_open_file_is_written_into_and_goes_on(tmp_path: Path) -> None:
    """As `--out /dev/stdout > FILE`: what is printed behind it lands in the same file."""
    file = tmp_path / "out"
    with file.open("wb", buffering=0) as out:
        out.write(b"first\n")
        path = f"/dev/fd/{out.fileno()}"
        assert is_stream(path)
        write_json(path, 2)
        out.write(b"third\n")
    assert file.read_text() == "first\n2\nthird\n"
    with pytest.raises(UnderstudyError, match="Bad file descriptor"):
        write_json(path, 3)


def full(file: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in_rust(file: Path) -> None:
    pl.DataFrame({"a": np.zeros(9)}).write_parquet("/dev/full")


@pytest.mark.parametrize("write", [full, full_in_rust])
def test_a_full_disk_is_one_sentence_and_leaves_the_older_file(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write_json(tmp_path / "result.json", 1)
    save_table(OLDER, tmp_path / "table")
    with (
        pytest.raises(UnderstudyError, match=r"result\.json.*No space left.*make room"),
        replacing(tmp_path / "result.json") as temporary,
    ):
        write(temporary)
    with (
        pytest.raises(UnderstudyError, match=r"table.*No space left.*make room"),
        replacing_folder(tmp_path / "table") as folder,
    ):
        write(folder)
    assert (tmp_path / "result.json").read_text() == "1\n"
    assert len(load_table(tmp_path / "table")) == 40
    assert names(tmp_path) == {"result.json", "table"}


def test_a_full_device_is_one_sentence(run: Run, tmp_path: Path) -> None:
    save_table(synthetic(3000), tmp_path / "table")
    command = run("search", tmp_path / "table", "--max-drop", "90", "--out", "/dev/full")
    refused(command, "'/dev/full' cannot be written (No space left on device)")


def test_leftovers_of_killed_writers_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".a.0123abcd.tmp").mkdir()
    (tmp_path / ".a.0123abcd.tmp" / "file").touch()
    (tmp_path / ".a.89abcdef.tmp").touch()
    (tmp_path / ".a.lock").touch()
    others = {".a.b.0123abcd.tmp", ".b.0123abcd.tmp", ".a.0123abcd", "a.tmp"}
    for name in others:
        (tmp_path / name).touch()
    write_json(tmp_path / "a", 1)
    assert names(tmp_path) == {"a", *others}


def test_a_folder_that_was_moved_aside_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_table(OLDER, tmp_path / "table")
    (tmp_path / "table").rename(tmp_path / ".table.old")
    assert len(load_table(tmp_path / "table")) == 40
    (tmp_path / "table").rename(tmp_path / ".table.old")
    assert recover(tmp_path / "table").is_dir()
    assert names(tmp_path) == {"table"}


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table").touch()
    with (
        pytest.raises(UnderstudyError, match="Not a directory"),
        replacing_folder(tmp_path / "table"),
    ):
        pass
    remove_folder(tmp_path / "none")
    assert names(tmp_path) == {"table"}


def test_a_writer_waits_for_another_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "result.json"
    second = threading.Thread(target=write_json, args=(file, 2))
    with locked(file):
        write_json(file, 1)
        second.start()
        while "waiting for process" not in caplog.text:
            assert file.read_text() == "1\n"
    second.join()
    assert file.read_text() == "2\n"
    assert names(tmp_path) == {"result.json"}


def test_a_lock_is_refused_without_waiting_and_freed_by_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import sys; from understudy.locks import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "table")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(InUse, match=rf"process {holder.pid} on .* wait until it ends"),
            locked(tmp_path / "table", wait=False),
        ):
            pass
        holder.kill()
        holder.wait()
    assert names(tmp_path) == {".table.lock"}
    with locked(tmp_path / "table", wait=False) as alone:
        assert alone
    assert names(tmp_path) == set()


def test_threads_that_add_to_one_file_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")

    def add() -> None:
        for _ in range(10):
            with locked(file), replacing(file) as temporary:
                temporary.write_text(str(int(file.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "40"
    assert names(tmp_path) == {"count"}


def test_who_holds_a_place_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".table.0123abcd.tmp").mkdir()
    (tmp_path / ".other.0123abcd.tmp").mkdir()
    with only_writer(tmp_path / "table"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".other.0123abcd.tmp"]
