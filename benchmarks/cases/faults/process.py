"""The command line in processes that are stopped, starved or misled.

Each command runs in a fork of this process, which has imported everything and started no thread: a
build of a few images then takes a second, and a child inherits no lock that a thread was holding.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import re
import resource
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 240.0
"""Seconds after which a child hangs."""
MEMORY = 6 * 2**30
"""Bytes of address space of a child; what takes more ends in an error and not in a dead machine."""
REFUSAL = re.compile(r"^\w+Error: \S.*\n  \S.*\n  \S.*$", re.MULTILINE)
"""An error as the command line prints it: value, expectation and remedy."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int | None
    """Exit code, or minus the signal; None if it hung and was killed."""
    stage: str
    """The stage that it was in."""
    output: str
    errors: str
    """What it printed on standard output and on standard error."""

    @property
    def finished(self) -> bool:
        """Whether it did what it was asked to."""
        return self.code == 0 and "Traceback" not in self.errors

    @property
    def refused(self) -> bool:
        """Whether it ended as an error that a user can fix: three parts, code 1, no traceback."""
        is_clear = bool(REFUSAL.search(self.errors)) and "Traceback" not in self.errors
        return self.code == 1 and is_clear

    @property
    def interrupted(self) -> bool:
        """Whether it ended as Ctrl-C should end it."""
        return self.code == 130 and "Traceback" not in self.errors

    def __str__(self) -> str:
        """Return the code, the stage and the end of what was printed."""
        return f"code {self.code} in '{self.stage}': {self.errors[-1500:] or self.output[-500:]}"


@dataclass(frozen=True)
class Stop:
    """A signal that a child gets some seconds after it has entered a stage, by its own clock.

    A busy machine then delays the signal as it delays the child. In place of SIGKILL it is an
    alarm that nothing handles, which the system answers in the same way.
    """

    stage: str
    seconds: float
    number: signal.Signals

    def prepare(self) -> None:
        """Decide what the alarm does in this process."""
        if self.number == signal.SIGKILL:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        else:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), self.number))

    def start(self) -> None:
        """Set the alarm."""
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds, 1e-6))


class Child:
    """A command in a forked process.

    Parameters
    ----------
    arguments
        Arguments of ``semlens``.
    prepare
        Called in the child before the command.
    database
        Folder that the command writes to; its file operations are counted and may end it.
    end_at
        Number of the file operation before which the child kills itself.
    stop
        A signal in some stage.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        prepare: Callable[[], object] = lambda: None,
        *,
        database: Path | None = None,
        end_at: int | None = None,
        stop: Stop | None = None,
    ) -> None:
        threads = list(Path("/proc/self/task").glob("*"))
        assert len(threads) <= 1, "a fork of several threads may inherit a lock for ever"  # noqa: S101
        pipes = [os.pipe() for _ in range(3)]
        self.stage, self.stages, self.operations = "start", dict[str, float](), 0
        self.started, self.seconds = time.monotonic(), 0.0
        self.pid = os.fork()
        if self.pid == 0:
            for reader, _ in pipes:
                os.close(reader)
            writers = [writer for _, writer in pipes]
            _become(list(map(str, arguments)), prepare, writers, database, end_at, stop)
        self._selector = selectors.DefaultSelector()
        self._texts = [bytearray() for _ in pipes]
        for number, (reader, writer) in enumerate(pipes):
            os.close(writer)
            os.set_blocking(reader, False)
            self._selector.register(reader, selectors.EVENT_READ, number)

    def pump(self, seconds: float) -> bool:
        """Read what the child says for at most some seconds; False once it has ended."""
        for key, _ in self._selector.select(seconds):
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fd)
                os.close(key.fd)
            self._texts[key.data] += data
            if key.data == 2:
                self._read_reports()
        return bool(self._selector.get_map())

    def _read_reports(self) -> None:
        *lines, rest = self._texts[2].split(b"\n")
        self._texts[2] = bytearray(rest)
        for line in lines:
            kind, _, value = line.decode().partition(" ")
            if kind == "operation":
                self.operations = int(value)
            else:
                self.stage = value
                self.stages.setdefault(value, time.monotonic() - self.started)

    def wait_for(self, stage: str, then: float = 0.0) -> bool:
        """Wait for a stage and some seconds more; False if the child is not in it any more."""
        until = self.started + PATIENCE
        while stage not in self.stages and time.monotonic() < until:
            if not self.pump(0.05):
                return False
        until = time.monotonic() + then
        while (left := until - time.monotonic()) > 0:
            if not self.pump(left):
                return False
        self.pump(0)
        return self.stage == stage

    @property
    def furthest(self) -> str:
        """The stage that it entered last: an earlier one may report again."""
        return max(self.stages, key=lambda stage: self.stages[stage])

    def said(self, number: int = 0) -> str:
        """Return what it has printed so far: standard output (0) or standard error (1)."""
        return self._texts[number].decode("utf-8", "replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the child is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ending(self) -> Ending:
        """Wait for the end; a child that hangs is killed."""
        until = time.monotonic() + PATIENCE
        while self.pump(0.2) and time.monotonic() < until:
            pass
        hung = bool(self._selector.get_map())
        if hung:
            self.send(signal.SIGKILL)
            while self.pump(0.2):
                pass
        _, status = os.waitpid(self.pid, 0)
        self._selector.close()
        self.seconds = time.monotonic() - self.started
        code = None if hung else os.waitstatus_to_exitcode(status)
        return Ending(code, self.stage, self.said(0), self.said(1))


def _become(
    arguments: list[str],
    prepare: Callable[[], object],
    writers: list[int],
    database: Path | None,
    end_at: int | None,
    stop: Stop | None,
) -> None:
    """Be the command and never return."""
    os.setpgid(0, 0)  # a Ctrl-C for the benchmark is none for the child
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, fd in enumerate((nothing, writers[0], writers[1])):
        os.dup2(fd, number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        code = _command(arguments, prepare, writers[2], database, end_at, stop)
    except BaseException:  # noqa: BLE001  # what Python does with an error that nobody caught
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _command(
    arguments: list[str],
    prepare: Callable[[], object],
    reports: int,
    database: Path | None,
    end_at: int | None,
    stop: Stop | None,
) -> int:
    from semlens.cli.main import main
    from semlens.progress import progress_listener

    seen = set[object]()

    def report(kind: str, value: object) -> None:
        os.write(reports, f"{kind} {value}\n".encode())
        if stop is not None and value == stop.stage and value not in seen:
            stop.start()
        seen.add(value)

    if stop is not None:
        stop.prepare()
    if database is not None:
        sys.addaudithook(_file_operations(str(database), report, end_at))
    prepare()
    sys.argv = ["semlens", *arguments]
    report("stage", "command")
    try:
        with progress_listener(lambda stage, done, total: report("stage", stage)):
            main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


_CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


def _file_operations(
    folder: str, report: Callable[[str, object], None], end_at: int | None
) -> Callable[[str, tuple[object, ...]], None]:
    """Return an audit hook that counts what changes a folder, and may end the process at one.

    A file outside ``partial/``, or for the next manifest, belongs to the merge of the shards.
    """
    count = 0
    unlisted = (f"{folder}/partial", f"{folder}/.lock", f"{folder}/analysis")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        is_write = event == "open" and (
            isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if not (is_write or event in _CHANGING):
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
        if not str(path).startswith(folder):
            return
        count += 1
        report("operation", count)
        if count == end_at:
            os.kill(os.getpid(), signal.SIGKILL)
        merged = not str(path).startswith(unlisted) or str(path).startswith(
            f"{folder}/partial/next"
        )
        if event == "open" and merged:
            report("stage", "merge")

    return hook


def run(arguments: Sequence[str | Path], prepare: Callable[[], object] = lambda: None) -> Ending:
    """Run a command to its end."""
    return Child(arguments, prepare).ending()


_NO_THREADS = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


def settle() -> None:
    """Start this script again with an environment in which libraries start no threads."""
    if any(os.environ.get(name) != value for name, value in _NO_THREADS.items()):
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_NO_THREADS}
        )


def import_all(commands: Sequence[Sequence[str | Path]]) -> None:
    """Import the package, and what else commands import in a child, where it is lost.

    Only imports: who has run a network once has threads, and children would inherit their locks.
    """
    package = importlib.import_module("semlens")
    for module in pkgutil.walk_packages(package.__path__, "semlens."):
        # onnxruntime starts a thread when it is imported, and no trial needs it
        if not module.name.endswith("__main__") and ".onnx_files" not in module.name:
            with contextlib.suppress(ImportError):  # of a library that is optional
                importlib.import_module(module.name)
    for command in commands:
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            before = set(sys.modules)

            def leave_list(path: str = file.name, before: set[str] = before) -> None:
                import atexit

                flush = os._exit

                def exit_with_list(code: int) -> None:
                    atexit._clear()
                    names = [n for n in sys.modules if n not in before]
                    Path(path).write_text(json.dumps(names), "utf-8")
                    flush(code)

                os._exit = exit_with_list  # type: ignore[assignment]

            ending = run(command, leave_list)
            assert ending.finished, ending  # noqa: S101
            for name in json.loads(file.read()):
                with contextlib.suppress(Exception):  # made by an import, not importable itself
                    importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each child copies the memory of all modules when it looks for garbage
