"""A submission's functions, called in a process of their own from one that stays clean.

    with Sandbox(cells, limits) as functions:
        l1_forward = functions.get("l1_forward", keep=(1,))
        y, cache = l1_forward(x, gamma, beta, eps)      # cache: a `Handle`

Nothing a submission does can reach this process: what comes back are numbers (`wire`). A call that
takes too long, ends the process or answers with something else raises, and so does every later one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np

from lpnorm.grading import wire
from lpnorm.grading.functions import Missing, Raised, Stopped, exception

START = 30.0  # seconds for Python and NumPy to start, which are not the submission's


class CannotStart(Exception):
    """No process, or none with the protection asked for; the text is one line."""


@dataclass(frozen=True)
class Limits:
    """What a submission's process may use. seconds: for all it computes in one question, loading
    included; memory: MiB; files: MiB a file; processes and open: how many."""

    seconds: float = 20.0
    memory: int = 2048
    files: int = 16
    processes: int = 8
    open: int = 64

    def resources(self, jailed: bool) -> dict[str, int]:
        """By the names of the resource module."""
        found = {
            "AS": self.memory * 2**20,
            "CPU": int(self.seconds) + 5,
            "FSIZE": self.files * 2**20,
            "NOFILE": self.open,
            "CORE": 0,
        }
        if jailed:  # outside, the user's other processes count too
            found["NPROC"] = self.processes
        return found


class Sandbox:
    """One process with one submission in it; a context manager, and a `Functions`.

    cells: the submission's code; jailed: in namespaces of its own (Linux), or with the limits alone
    (which are none on Windows). number: tells sandboxes that run at the same time apart.
    """

    def __init__(
        self, cells: Sequence[str], limits: Limits, jailed: bool = True, number: int = 0
    ) -> None:
        self.cells, self.limits, self.jailed, self.number = list(cells), limits, jailed, number
        self.left = limits.seconds
        self.stopped = ""  # why nothing more can be called
        self.notes = ""  # what went wrong when its code was run
        self.loaded = False  # has all of its code been run?
        self.thread: threading.Thread | None = None  # the last call

    def __enter__(self) -> Sandbox:
        self.root = tempfile.mkdtemp(prefix="lpnorm-grade-")
        packages = str(Path(np.__file__).parent.parent)
        child = str(Path(__file__).with_name("child.py"))
        jail = None
        if self.jailed:
            jail = {"root": self.root, "uid": 200_000 + self.number % 100_000, **visible(packages)}
        one = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        keep = {k: v for k, v in os.environ.items() if k in ("SYSTEMROOT", "LD_LIBRARY_PATH")}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=self.root,
            env={**keep, **dict.fromkeys(one, "1")},
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        limits = self.limits.resources(self.jailed)
        order = {"jail": jail, "packages": packages, "limits": limits, "cells": self.cells}
        data = json.dumps(order).encode()
        try:
            self._start(len(data).to_bytes(8, "little") + data)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, order: bytes) -> None:
        def begin() -> Any:
            os.write(self.requests, order[:8])
            sent = 8
            while sent < len(order):
                sent += os.write(self.requests, order[sent : sent + 2**16])
            first = os.read(self.answers, 1)  # "+" when Python and NumPy are there
            return first if first == b"+" else first + os.read(self.answers, 500)

        try:
            said = self._wait(begin, START)
        except _Ended:
            said = b""
        if said != b"+":
            self._kill()
            why = said.decode(errors="replace") or "its process did not start"
            raise CannotStart(_printable(why.splitlines()[0]))
        with contextlib.suppress(Stopped):
            answer = self._call(lambda: wire.receive(self.answers))
            if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
                self.notes, self.loaded = _printable(answer[1]), True
            else:
                self._stop("its answers make no sense")

    def __exit__(self, *error: object) -> None:
        self._kill()
        if self.thread is not None:  # it ends with the process, unless that left descendants
            self.thread.join(1.0)
        if self.thread is None or not self.thread.is_alive():
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()

    # ---- calling ----

    def get(self, name: str, keep: tuple[int, ...] = ()) -> Callable[..., Any]:
        """The function of that name; entries of its tuple at the places `keep` stay over there."""

        def function(*arguments: Any) -> Any:
            def ask() -> Any:
                wire.send(self.requests, (name, arguments, keep))
                return wire.receive(self.answers)

            return self._result(name, arguments, self._call(ask))

        return function

    def _result(self, name: str, arguments: tuple[Any, ...], answer: Any) -> Any:
        try:
            kind, *rest = answer
            if kind == "missing":
                raise Missing(name, self.notes)
            if kind == "raised":
                error, text = (_printable(str(each)) for each in rest)
                raise exception(error, text)
            result, changed = rest
            for index, array in changed:
                if arguments[index].shape == array.shape and arguments[index].flags.writeable:
                    arguments[index][...] = array
        except Raised:
            raise
        except (ValueError, TypeError, IndexError, AttributeError):
            self._stop("its answers make no sense")
            raise Stopped(self.stopped) from None
        return result

    def _call(self, work: Callable[[], Any]) -> Any:
        """What the work gives, within the seconds that are left. Raises Stopped."""
        if self.stopped:
            raise Stopped(self.stopped)
        began = time.monotonic()
        try:
            return self._wait(work, self.left)
        except _Ended as ended:
            self._stop(ended.why)
        except wire.BadMessage as error:
            self._stop(str(error))
        finally:
            self.left -= time.monotonic() - began
        raise Stopped(self.stopped)

    def _stop(self, why: str) -> None:
        self._kill()
        self.stopped = _printable(why)

    def _wait(self, work: Callable[[], Any], seconds: float) -> Any:
        """Run work in a thread, which a submission that does not answer may block for ever."""
        box: Queue[Any] = Queue()

        def run() -> None:
            try:
                box.put((True, work()))
            except BaseException as error:
                box.put((False, error))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        try:
            worked, result = box.get(timeout=max(seconds, 0.01))
        except Empty:
            self._kill()
            raise _Ended(f"it took longer than {self.limits.seconds:g} s and was stopped") from None
        if worked:
            return result
        if isinstance(result, (EOFError, OSError)):
            raise _Ended(self._death())
        raise result

    def _death(self) -> str:
        try:
            code = self.process.wait(2)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        code = code - 128 if code > 128 else -code if code < 0 else 0
        if code == getattr(signal, "SIGXCPU", 24):
            return f"it took longer than {self.limits.seconds:g} s and was stopped"
        if code:
            with contextlib.suppress(ValueError):
                return f"its process crashed ({signal.Signals(code).name})"
        return "its process ended on the way"


class _Ended(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _printable(text: str) -> str:
    """Other people's text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)[:500]


def visible(packages: str) -> dict[str, list[str]]:
    """What a submission may see: the standard library, shared libraries, and NumPy.

    Everything else that is installed is hidden, in particular lpnorm, which holds the answers.
    """
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    shared = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"]
    shared += ["/etc/ld.so.cache", f"{sys.base_prefix}/lib"]
    shown = [path for path in dict.fromkeys([*shared, *library]) if os.path.lexists(path)]
    shown = [p for p in shown if not any(p != q and p.startswith(q + "/") for q in shown)]
    hidden = [*site.getsitepackages(), *site.getsitepackages([sys.base_prefix])]
    hidden += [site.getusersitepackages(), packages, sysconfig.get_path("purelib")]
    hidden += [str(path) for path in Path("/usr/lib").glob("python3*/dist-packages")]
    hidden += [str(Path(__file__).parent.parent)]  # lpnorm
    numpy = [path for path in Path(packages).glob("numpy*") if path.suffix in ("", ".libs")]
    every = list(dict.fromkeys(os.path.realpath(path) for path in hidden))
    return {"shown": shown, "hidden": every, "packages": [str(path) for path in numpy]}


def jail_works() -> str:
    """ "" where submissions can be jailed, otherwise what is missing, in one line."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    try:
        with Sandbox([], Limits()):
            return ""
    except CannotStart as error:
        return str(error)
