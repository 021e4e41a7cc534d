"""Child processes: started again when they die, and gone when the context is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hyperact.clients.children import Child, ChildError, Children, describe_exit

limit_seconds = 30.0


def wait_for(condition: object) -> None:
    """Return once a condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """Return a program that writes its process id to a file and goes on for a long time."""
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, pathlib, time
        path = pathlib.Path({str(tmp_path)!r}) / "pids"
        with path.open("a") as file:
            file.write(f"{{os.getpid()}}\\n")
        print("2026-01-01T00:00:00Z it runs", flush=True)
        time.sleep(600)
        """)
    )
    return [sys.executable, str(script)]


def pids(tmp_path: Path) -> list[int]:
    """Return the processes that the program has run as."""
    file = tmp_path / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


class TestChildren:
    def test_a_child_that_was_killed_is_started_again(self, tmp_path: Path, program: list[str]) -> None:
        """And whoever watches is told."""
        said: list[str] = []
        with Children({}, notify=said.append) as children:
            child = children.start_program("sleeper", program, tmp_path / "log")
            wait_for(lambda: len(pids(tmp_path)) == 1)
            os.kill(pids(tmp_path)[0], signal.SIGKILL)
            wait_for(lambda: len(pids(tmp_path)) == 2)
            wait_for(lambda: said)
            children.check()

        assert (1, "it runs") == (child.num_restarts, child.last_line())
        assert ["sleeper was killed by signal 9; started it again (1 of 5)"] == said
        assert [False, False] == [is_alive(pid) for pid in pids(tmp_path)]

    def test_a_child_that_keeps_dying_is_given_up_with_its_last_words(self, tmp_path: Path) -> None:
        """Nobody waits forever for what cannot run."""
        with Children({}, max_restarts=2) as children:
            program = [sys.executable, "-c", "print('no disk'); exit(3)"]
            child = children.start_program("failing", program, tmp_path / "log")
            wait_for(lambda: child.problem)

            with pytest.raises(ChildError, match=r"failing exited with 3 and was started again 2 times.*no disk"):
                children.check()

    def test_a_child_that_does_not_end_when_asked_is_killed(self, tmp_path: Path) -> None:
        """After a while."""
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
        with Children({}, stop_seconds=0.2) as children:
            child = children.start_program("deaf", [sys.executable, "-c", deaf], tmp_path / "log")
            wait_for(lambda: child.last_line() == "deaf")

        assert child.process is not None
        assert -signal.SIGKILL == child.process.returncode

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
    def test_children_end_with_a_parent_that_was_killed(self, tmp_path: Path) -> None:
        """A demo that is killed outright leaves no trainer behind."""
        child = "from hyperact.clients.child import end_with_parent as end; end(); print('runs', flush=True); "
        parent = textwrap.dedent(f"""
            import sys, time
            from pathlib import Path
            from hyperact.clients.children import Children
            program = [sys.executable, "-c", {child + "import time; time.sleep(600)"!r}]
            with Children({{}}) as children:
                child = children.start_program("child", program, Path({str(tmp_path / "log")!r}))
                while child.last_line() != "runs":
                    time.sleep(0.01)
                print(child.process.pid, flush=True)
                time.sleep(600)
            """)
        with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            assert is_alive(pid)
            process.kill()

        wait_for(lambda: not is_alive(pid))

    def test_the_last_line_of_no_output_is_empty(self, tmp_path: Path) -> None:
        """Nothing was said yet."""
        assert Child("quiet", [], tmp_path / "none").last_line() == ""


@pytest.mark.parametrize(("code", "text"), [(0, "exited with 0"), (-9, "was killed by signal 9")])
def test_an_exit_is_said_in_words(code: int, text: str) -> None:
    """A negative code is a signal's."""
    assert text == describe_exit(code)
