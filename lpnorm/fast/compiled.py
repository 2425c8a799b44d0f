"""How the loops are compiled, and where what was compiled is kept.

Numba keeps compiled functions on disk, but notices a change only in the file a function stands in,
not in those it calls. Here everything in this folder is one unit: the cache is a folder named by a
hash of all of it, so a change anywhere means that all is compiled anew. Several processes may
compile and write at once; each writes whole files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import platformdirs
from numba.core import config
from numba.core.caching import _CacheLocator

SOURCES = sorted(Path(__file__).parent.glob("*.py"))
SOURCE = hashlib.sha256(b"\0".join(p.read_bytes() for p in SOURCES)).hexdigest()[:16]
LATE = 1.5  # seconds: reading a kept function takes a tenth of one


def folder() -> Path:
    """Where compiled loops are kept: in NUMBA_CACHE_DIR if set, else the user's cache."""
    base = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("lpnorm", False)
    return Path(base) / f"fast-{SOURCE}"


class Locator(_CacheLocator):
    """Numba's question where to keep a function, answered: all in `folder()`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def get_cache_path(self) -> str:
        return str(self.path)

    def get_source_stamp(self) -> str:
        return SOURCE

    def get_disambiguator(self) -> str:
        return self.name

    @classmethod
    def from_function(cls, function: Any, file: str) -> Locator:
        found = cls(folder(), function.__name__)
        try:
            found.ensure_cache_path()
        except OSError:  # a home that cannot be written to: keep it for as long as the process runs
            found = cls(Path(tempfile.mkdtemp(prefix="lpnorm-fast-")), function.__name__)
        return found


OPTIONS = {"nogil": True, "error_model": "numpy"}  # the latter: x / 0 is inf, as in NumPy
inner: Callable[[Any], Any] = numba.njit(**OPTIONS)  # compiled into the functions that call it


class entry:
    """A compiled function that is called from Python: kept on disk, one version a set of dtypes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        before = config.CACHE_LOCATOR_CLASSES
        config.CACHE_LOCATOR_CLASSES = f"{__name__}.Locator"
        try:
            self.compiled = numba.njit(cache=True, **OPTIONS)(function)
        finally:
            config.CACHE_LOCATOR_CLASSES = before
        self.name = function.__name__
        self.ready: set[Any] = set()
        self.lock = threading.Lock()

    def __call__(self, dtypes: Any, *arguments: Any) -> Any:
        """Call it; dtypes names the version, and if that has to be compiled first, say so."""
        if dtypes in self.ready or config.DISABLE_JIT:
            return self.compiled(*arguments)
        with self.lock:  # one thread compiles, the others wait
            word = threading.Timer(LATE, _say, [self.name, dtypes])
            word.start()
            try:
                self.compiled.compile(tuple(map(numba.typeof, arguments)))
            finally:
                word.cancel()
            self.ready.add(dtypes)
        return self.compiled(*arguments)


def _say(name: str, dtypes: Any) -> None:
    print(
        f"lpnorm.fast: compiling {name} for {dtypes}, a few seconds, once (kept in {folder()})",
        file=sys.stderr,
        flush=True,
    )


def kept() -> list[str]:
    """The compiled functions that are kept on disk, by name, one entry a version."""
    return sorted(path.name.split("-")[0] for path in folder().glob("*.nbc"))


def clear() -> None:
    """Delete what is kept, of this version and of older ones."""
    for path in folder().parent.glob("fast-*"):
        shutil.rmtree(path, ignore_errors=True)
