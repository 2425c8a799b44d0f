"""`python -m lpnorm.verify REQUEST ANSWER`: the child process of `lpnorm check`.

The candidate is other people's code: it may hang, crash the interpreter, print, or call os._exit.
So it runs here, and the answer goes through a file. REQUEST is JSON: target, arguments of `check`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from lpnorm.files import atomic
from lpnorm.norms import Range, TopK, as_norm
from lpnorm.verify.candidates import CannotRun, line
from lpnorm.verify.judge import JudgeError, check


def load(target: str) -> Any:
    """The candidate named by path.py:name, package.module:name, either without a name (a module
    with forward and backward), or with two names, forward,backward. Raises CannotRun."""
    where, _, names = target.rpartition(":") if ":" in target else (target, "", "")
    if names and (names.startswith("\\") or "/" in names):  # C:\file.py
        where, names = target, ""
    try:
        if where.endswith(".py"):
            path = Path(where)
            if not path.is_file():
                raise CannotRun(f"there is no file {where}")
            sys.path.insert(0, str(path.resolve().parent))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, "")
            module = importlib.import_module(where)
    except CannotRun:
        raise
    except BaseException as error:  # whatever a file does when it is imported
        raise CannotRun(f"{where} does not import ({line(error)})") from error
    found = []
    for name in filter(None, names.split(",")):
        value: Any = module
        for part in name.split("."):
            if not hasattr(value, part):
                raise CannotRun(f"{where} has no {name}")
            value = getattr(value, part)
        found.append(value)
    return module if not found else found[0] if len(found) == 1 else tuple(found)


def norm_named(text: str) -> Any:
    """p from text: a number, inf, topK or top10 (any k), range. ValueError naming --p otherwise."""
    word = text.lower().replace("topk", "top").strip()
    if word == "range":
        return Range()
    if word.startswith("top") and word[3:].strip("()=k").isdecimal():
        return TopK(int(word[3:].strip("()=k")))
    try:
        as_norm(float(word))
        return float(word)
    except ValueError:
        number = word.removeprefix("lp").removeprefix("l").strip("_-=() ")
        meant = {"infinity": "inf", "infty": "inf", "∞": "inf", "max": "inf"}.get(number, number)
        known = meant if re.fullmatch(r"inf|\d+(\.\d+)?", meant) and meant != word else ""
        hint = f" (did you mean {known}?)" if known else ""
        allowed = "a number from 1 to 65504, inf, top10 (any k) or range"
        raise ValueError(f"--p must be {allowed}, got {text!r}{hint}") from None


def main(request: str, answer: str) -> int:
    given = json.loads(Path(request).read_text(encoding="utf-8"))
    arguments = given["arguments"]
    try:
        p = norm_named(given["p"])
        report = check(load(given["target"]), p=p, **arguments)
        result = {"ok": report.ok, "ran": report.ran, "json": json.loads(report.to_json())}
        result["text"], result["colour"] = report.text(), report.text(colour=True)
        if not report.ran:
            result["error"] = report.failures[0].detail
    except CannotRun as error:
        result = {"ok": False, "ran": False, "error": str(error).splitlines()[0]}
    except (ValueError, TypeError) as error:  # wrong arguments, named
        result = {"ok": False, "ran": False, "error": str(error).splitlines()[0]}
    except JudgeError as error:
        traceback.print_exc()
        words = f"an error of the judge, not of the candidate ({error})"
        result = {"ok": False, "ran": False, "error": words}
    with atomic(answer) as path:
        path.write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
