"""How the loops are compiled, and where what was compiled is kept.

Numba keeps compiled functions on disk, but notices a change only in the file a function stands in,
not in those it calls. Here everything in this folder is one unit: the cache is a folder named by a
hash of all of it, of Numba, and of the processor, so a change anywhere means that all is compiled
anew. In it each version of a function (one a set of dtypes) has files of its own: processes that
compile and write at once can only write the same twice, and each writes whole files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import platformdirs
from numba.core import config, event
from numba.core.caching import _CacheLocator
from numba.core.codegen import get_host_cpu_features
from numba.core.dispatcher import Dispatcher

if not hasattr(config, "CACHE_LOCATOR_CLASSES"):
    raise ImportError(f"numba 0.63 or later is needed, not {numba.__version__}")

SOURCES = sorted(Path(__file__).parent.glob("*.py"))


def key(sources: list[Path]) -> str:
    """The hash of all that decides what the compiler makes of the sources."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes() + b"\0")
    settings = config.CPU_NAME, config.CPU_FEATURES, config.OPT, config.BOUNDSCHECK
    machine = sys.platform, sys.implementation.cache_tag, get_host_cpu_features()
    versions = numba.__version__, sys.modules["llvmlite"].__version__
    digest.update(repr((versions, machine, settings)).encode())
    return digest.hexdigest()[:16]


SOURCE = key(SOURCES)


def folder() -> Path:
    """Where compiled loops are kept: in NUMBA_CACHE_DIR if set, else the user's cache."""
    own = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(own, "lpnorm") if own else Path(platformdirs.user_cache_dir("lpnorm", False))
    return base / f"fast-{SOURCE}"


class Locator(_CacheLocator):
    """Numba's question where to keep a function, answered: in `folder()`, by name and version."""

    version = ""  # of the function that Numba is about to ask for

    def __init__(self) -> None:
        self.path, self.own_version = folder(), self.version

    def get_cache_path(self) -> str:
        return str(self.path)

    def get_source_stamp(self) -> str:
        return SOURCE

    def get_disambiguator(self) -> str:
        return self.own_version.replace(" ", "_")

    @classmethod
    def from_function(cls, function: Any, file: str) -> Locator:
        return cls()


OPTIONS = {"nogil": True, "error_model": "numpy"}  # the latter: x / 0 is inf, as in NumPy
inner: Callable[[Any], Any] = numba.njit(**OPTIONS)  # compiled into the functions that call it
_LOCK = threading.Lock()  # one thread compiles, the others wait, and so does a fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )


class entry:
    """A compiled function that is called from Python: kept on disk, one version a set of dtypes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.name = function, function.__name__
        self.versions: dict[str, Dispatcher] = {}

    def __call__(self, version: str, *arguments: Any) -> Any:
        """Call a version, which the dtypes of the arguments decide; if it is new, say its name."""
        if config.DISABLE_JIT:
            return self.function(*arguments)
        compiled = self.versions.get(version)
        if compiled is None:
            with _LOCK:
                if version not in self.versions:
                    self.versions[version] = self._compile(version, arguments)
                compiled = self.versions[version]
        return compiled(*arguments)

    def _compile(self, version: str, arguments: tuple[Any, ...]) -> Dispatcher:
        """Read it from disk or make it, and say so if it has to be made."""
        signature = tuple(map(numba.typeof, arguments))
        with event.install_listener("numba:compile", _Word(self, version)):
            before = config.CACHE_LOCATOR_CLASSES
            config.CACHE_LOCATOR_CLASSES = f"{__name__}.Locator"
            Locator.version = version
            try:
                compiled = numba.njit(cache=True, **OPTIONS)(self.function)
            finally:
                config.CACHE_LOCATOR_CLASSES = before
            try:
                compiled.compile(signature)
            except Exception:  # a full disk, a folder that is not ours, a damaged file: without
                for damaged in folder().glob(f"*{self.name}-{version.replace(' ', '_')}.*"):
                    with contextlib.suppress(OSError):  # so that the next process mends it
                        damaged.unlink()
                if not compiled.signatures:
                    compiled = numba.njit(**OPTIONS)(self.function)
                    compiled.compile(signature)
        return compiled


class _Word(event.Listener):
    """Says that a function is being compiled, when it is (and not when it is read from disk)."""

    def __init__(self, of: entry, version: str) -> None:
        self.of, self.version = of, version

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"].py_func is self.of.function:
            print(
                f"lpnorm.fast: compiling {self.of.name} for {self.version}, a few seconds, once "
                f"(kept in {folder()})",
                file=sys.stderr,
                flush=True,
            )

    def on_end(self, event: Any) -> None:
        pass


def kept() -> list[str]:
    """The compiled functions that are kept on disk: "forward for float16 summed in float32"."""
    stems = [path.name.split(".py")[0].partition("-") for path in folder().glob("*.nbc")]
    return sorted(f"{name.split('.')[-1]} for {of.replace('_', ' ')}" for name, _, of in stems)


def clear() -> None:
    """Delete what is kept, of this version and of older ones."""
    for path in folder().parent.glob("fast-*"):
        shutil.rmtree(path, ignore_errors=True)
