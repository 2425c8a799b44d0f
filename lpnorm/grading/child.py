"""The process that runs a submission: `python -I -S child.py`, spoken to through its pipes.

It only computes. It is told the submission's text and then, call by call, a function's name and
arguments, and sends back what the function returned. What is right is decided elsewhere, by a
process that never runs a line of the submission: so whatever a submission does in here, to this
file, to NumPy or to Python itself, it gains nothing but what right answers are worth. This file
uses NumPy and its neighbours `wire` and `jail`, never lpnorm.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
import traceback

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]


def main() -> None:
    requests, answers = os.dup(0), os.dup(1)
    here = os.path.dirname(os.path.abspath(__file__))
    order = _read_plain(requests)
    sys.path[:0] = [here]
    sys.path.append(order["packages"])
    try:
        import jail  # type: ignore[import-not-found]
        import numpy as np
        import wire  # type: ignore[import-not-found]

        sys.path.remove(here)
        if order["jail"] is not None:
            jail.enter(**order["jail"])
    except (ImportError, OSError) as error:
        os.write(answers, _line(error).encode()[:500])
        os._exit(3)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a submission prints goes nowhere, however much it is
        os.dup2(nowhere, standard)
    os.write(answers, b"+")
    sys.modules["lpnorm"] = None  # type: ignore[assignment]  # the answers may not be looked up
    _limit(order["limits"])
    namespace: dict[str, object] = {"__name__": "submission"}
    notes = run_cells(order["cells"], namespace)
    wire.send(answers, ("loaded", notes))
    kept: list[object] = []
    while True:
        try:
            name, arguments, keep = wire.receive(requests)
        except EOFError:
            return
        wire.send(answers, _answer(namespace, name, arguments, keep, kept, np, wire))


def _read_plain(pipe: int) -> dict:
    """The first message, before anything is imported: a length, then JSON."""
    import json

    data, wanted = b"", 8
    while len(data) < wanted:
        more = os.read(pipe, wanted - len(data))
        if not more:
            os._exit(3)
        data += more
        if len(data) == 8 and wanted == 8:
            wanted += int.from_bytes(data, "little")
    order: dict = json.loads(data[8:])
    return order


def _limit(limits: dict[str, int]) -> None:
    """Resource limits by name; a limit the system already has lower stays."""
    for name, value in limits.items() if resource is not None else ():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                resource.setrlimit(number, (value, value))
            except (ValueError, OSError):
                continue


def run_cells(
    cells: list[str], namespace: dict[str, object], each: float = 3, most: float = 8
) -> str:
    """Run the cells, statement by statement; what goes wrong in one is noted and the next is run.

    A notebook has cells of every kind (trials, plots, checks); only its functions are wanted. So no
    statement runs longer than `each` seconds, and none but imports and definitions once `most` are
    over.
    """
    notes: list[str] = []
    body = [statement for text in cells for statement in _statements(text, notes)]
    wanted = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    end = time.monotonic() + most
    for statement in body:
        left = each if isinstance(statement, wanted) else min(each, end - time.monotonic())
        if note := _run(statement, namespace, left):
            notes.append(note)
    return "; ".join(notes[:3])[:500]


def _statements(text: str, notes: list[str]) -> list[ast.stmt]:
    """The statements of a cell, or those before the first line that is no Python."""
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        notes.append(f"{type(error).__name__}{where}: {getattr(error, 'msg', '')}")
    lines = text.splitlines()
    for cut in range((line or 1) - 1, max(0, (line or 1) - 40), -1):
        try:
            return ast.parse("\n".join(lines[:cut])).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return []


def _run(statement: ast.stmt, namespace: dict[str, object], seconds: float) -> str:
    """What went wrong, in a line."""
    if seconds <= 0:
        return f"line {statement.lineno}: not run, what came before it took so long"
    try:
        code = compile(ast.Module([statement], []), "submission", "exec")
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, _too_long)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        exec(code, namespace)
    except BaseException as error:  # sys.exit() too
        return f"line {statement.lineno}: {_line(error)}"
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _too_long(*_: object) -> None:
    raise TimeoutError("it took too long and was stopped: it is none of the functions")


def _answer(namespace, name, arguments, keep, kept, np, wire):  # type: ignore[no-untyped-def]
    """("gave", result, what the arguments are now where they changed) or ("raised", kind, text)."""
    if name not in namespace or not callable(namespace[name]):
        return "missing", name
    given = [kept[a.number] if isinstance(a, wire.Handle) else a for a in arguments]
    arrays = [(i, a, a.copy()) for i, a in enumerate(given) if isinstance(a, np.ndarray)]
    try:
        with np.errstate(all="ignore"):
            result = namespace[name](*given)
        if isinstance(result, list) and keep:  # [y, cache]
            result = tuple(result)
        if isinstance(result, tuple) and keep:
            parts = []
            for i, part in enumerate(result):
                if i in keep:
                    kept.append(part)
                    part = wire.Handle(len(kept) - 1)
                parts.append(part)
            result = tuple(parts)
        changed = [(i, a) for i, a, old in arrays if a.tobytes() != old.tobytes()]
        answer = ("gave", result, tuple(changed))
        wire.pack(answer)
    except wire.BadMessage as error:
        return "raised", "TypeError", f"{name} gave something else than asked for: {error}"
    except MemoryError:
        return "raised", "MemoryError", "it needs more memory than a submission has"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        known = last and last[0].filename == "submission"
        if isinstance(error, NotImplementedError):  # the line of the stub says nothing
            known = False
        where = f" (line {last[0].lineno})" if known else ""
        return "raised", type(error).__name__, _words(error)[:300] + where
    return answer


def _words(error: BaseException) -> str:
    try:
        return (str(error).strip().splitlines() or [""])[0]
    except Exception:
        return ""


def _line(error: BaseException) -> str:
    text = _words(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    main()
