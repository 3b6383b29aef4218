"""Claims of tasks: one process's at a time, taken over from those that have ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from understudy.errors import UnderstudyError
from understudy.locks import InUse
from understudy.scoring.claims import Claims, check_claimable
from understudy.scoring.members import LEASE, Members, WorkProcess, check_nobody_joined

MINUTES = 60.0


class Clock:
    """Seconds that pass when it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def elsewhere(folder: Path, name: str = "elsewhere") -> Path:
    """The file of a process on another machine."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    process = WorkProcess(host="node7", machine="another boot", pid=1, started="1")
    file.write_text(json.dumps(process.to_dict()))
    return file


def beat(file: Path, seconds: float = 10.0) -> None:
    """A sign of life, so many seconds after the last one."""
    changed = file.stat().st_mtime_ns + int(seconds * 1e9)
    os.utime(file, ns=(changed, changed))


def claims_of(folder: Path, members: Members) -> Claims:
    return Claims(folder / "claims", members)


def test_a_task_is_one_process_s(tmp_path: Path) -> None:
    one, other = Members(tmp_path / "processes"), Members(tmp_path / "processes")
    with one.joined():
        with other.joined():
            assert claims_of(tmp_path, one).take("task")
            assert not claims_of(tmp_path, other).take("task")
            assert claims_of(tmp_path, one).take("task"), "it is its own already"
            assert claims_of(tmp_path, other).take("another")
            assert claims_of(tmp_path, other).held == {"task": one.name, "another": other.name}
        assert claims_of(tmp_path, one).held == {"task": one.name}
        assert claims_of(tmp_path, one).has_others, "though it has ended"
        assert claims_of(tmp_path, one).take("another")


def test_a_process_elsewhere_has_ended_when_it_is_silent_for_the_lease(tmp_path: Path) -> None:
    clock = Clock()
    members = Members(tmp_path, clock=clock)
    file = elsewhere(tmp_path)
    assert members.is_at_work("elsewhere")
    for _ in range(20):
        clock.sleep(LEASE / 2)
        beat(file)
        assert members.is_at_work("elsewhere")
    clock.sleep(LEASE - 1)
    assert members.is_at_work("elsewhere")
    clock.sleep(1)
    assert not members.is_at_work("elsewhere")
    beat(file)
    assert members.is_at_work("elsewhere"), "it was suspended"


@pytest.mark.parametrize("shift", [-90 * MINUTES, -5 * MINUTES, 5 * MINUTES, 90 * MINUTES])
def test_clocks_that_differ_mislead_nobody(tmp_path: Path, shift: float) -> None:
    """A file system may note the time of the machine that writes."""
    clock = Clock()
    members = Members(tmp_path, clock=clock)
    file = elsewhere(tmp_path)
    beat(file, shift)
    for _ in range(10):
        assert members.is_at_work("elsewhere")
        clock.sleep(20)
        beat(file)
    clock.sleep(LEASE)
    assert members.is_at_work("elsewhere"), "the last sign had not been seen"
    clock.sleep(LEASE)
    assert not members.is_at_work("elsewhere")


def test_signs_of_life_may_be_coarse(tmp_path: Path) -> None:
    """FAT notes every other second."""
    clock = Clock()
    members = Members(tmp_path, clock=clock)
    file = elsewhere(tmp_path)
    for second in range(0, 300, 10):
        os.utime(file, (second // 2 * 2, second // 2 * 2))
        assert members.is_at_work("elsewhere")
        clock.sleep(10)


def test_a_killed_process_of_this_machine_is_known_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from understudy.scoring.members import Members\n"
        "members = Members(Path(sys.argv[1]))\n"
        "with members.joined():\n"
        "    print(members.name, flush=True); time.sleep(60)\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    with started, started.stdout:
        name = started.stdout.readline().strip()
        watching = Members(tmp_path)
        assert watching.is_at_work(name)
        process = watching.process(name)
        assert process is not None
        assert str(process) == f"process {started.pid} on {os.uname().nodename}"
        started.kill()
        started.wait()
        assert not watching.is_at_work(name)
        assert watching.others == [name]


def test_numbers_of_processes_that_are_given_anew_mislead_nobody(tmp_path: Path) -> None:
    here = WorkProcess.current()
    older = WorkProcess(here.host, here.machine, here.pid, started="1")
    container = WorkProcess("pod-3", here.machine, pid=2**22 + 1, started="1")
    assert older.ended_here
    assert not here.ended_here
    assert not container.ended_here, "its processes are not to be seen from here"
    assert not WorkProcess(here.host, "", here.pid, "").ended_here, "the system does not say"


def test_takeovers_at_once_have_one_winner(tmp_path: Path) -> None:
    file = elsewhere(tmp_path / "processes")
    owner = Members(tmp_path / "processes")
    (tmp_path / "claims").mkdir()
    for task in range(30):
        (tmp_path / "claims" / f"{task}.0").write_text("elsewhere")
    file.unlink()  # it has ended
    members = [Members(tmp_path / "processes") for _ in range(8)]
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        for one in (owner, *members):
            stack.enter_context(one.joined())

        def take_all(one: Members) -> list[bool]:
            return [claims_of(tmp_path, one).take(str(task)) for task in range(30)]

        taken = list(pool.map(take_all, members))
        assert [sum(column) for column in zip(*taken, strict=True)] == [1] * 30


def test_a_claim_whose_process_was_killed_while_it_wrote_it_expires(tmp_path: Path) -> None:
    clock = Clock()
    members = Members(tmp_path / "processes", clock=clock)
    claims = claims_of(tmp_path, members)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "task.0").touch()
    assert not claims.take("task")
    assert claims.held == {"task": ""}
    clock.sleep(LEASE)
    assert claims.take("task")


def test_who_works_alone_waits_for_none_that_has_ended(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "processes"
    check_nobody_joined(folder)
    elsewhere(folder)
    check_nobody_joined(folder, clock=clock, sleep=clock.sleep)
    assert LEASE <= clock.now <= LEASE + 2

    file = elsewhere(folder, "alive")

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now % 10 == 0:
            beat(file)

    with pytest.raises(InUse, match=r"process 1 on node7 has joined .* with --join, or wait"):
        check_nobody_joined(folder, clock=clock, sleep=sleep)
    file.unlink()
    with (
        Members(folder).joined(),
        pytest.raises(InUse, match=f"process {os.getpid()} on .* has joined"),
    ):
        check_nobody_joined(folder, clock=clock, sleep=clock.sleep)


def test_a_file_system_without_what_claims_need_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_claimable(tmp_path / "processes")
    assert list((tmp_path / "processes").iterdir()) == []
    exclusive = os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda path, flags, mode: exclusive(path, flags & ~os.O_EXCL))
        with pytest.raises(UnderstudyError, match="does not create them exclusively: choose"):
            check_claimable(tmp_path / "processes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", lambda *_: None)
        with pytest.raises(UnderstudyError, match="does not note when they were changed"):
            check_claimable(tmp_path / "processes")
