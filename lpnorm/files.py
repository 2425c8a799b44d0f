"""Files that are never half-written and never silently damaged: write beside, seal, rename.

An archive of arrays is an .npz file without pickle, which `numpy.load` reads too; a document is
JSON. Each ends in a seal, ``lpnorm 1 <kind> sha256:<digest of every byte before>``: in the zip
comment of an archive, in the last entry of a document. So the digest covers names, dtypes, shapes
and values alike, and a file of which any bit has changed, or that lacks its end, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

if sys.platform != "win32":
    import fcntl

PathLike = str | os.PathLike[str]
_SEAL = re.compile(rb'lpnorm (\d+) ([\w ]+) sha256:([0-9a-f]{64})("\}\n)?\Z')
_FORMAT = 1


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends without error.

    Missing folders are made. After an error or an interruption `path` is as it was before. The
    temporary name is always the same for a path and a user, and locked while in use: a second
    writer waits for the first, and what a killed one left is taken over by the next. A link is
    followed. Raises OSError, before the block begins, where `path` is a folder or a device or
    cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise IsADirectoryError(f"{path} is a folder or a device, not a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    whose = os.fsencode(path.name) + b"/%d" % getattr(os, "getuid", int)()
    short = hashlib.sha256(whose).hexdigest()[:8]
    temporary = path.with_name(f".{path.stem[:30]}-lpnorm-{short}{path.suffix[:20]}")
    handle = _locked(temporary)
    try:
        yield temporary
        if sys.platform == "win32":  # which renames no open file
            os.close(handle)
        os.replace(temporary, path)  # from here on the temporary name may be another writer's
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)


def _locked(path: Path) -> int:
    """A handle on this file, made or emptied, that nobody else has until it is closed."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # some network folders know no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # renamed by its writer while we waited
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                os.ftruncate(handle, 0)
                return handle
        os.close(handle)


def check_writable(name: str, path: Any) -> Path:
    """path as a Path; TypeError or ValueError naming the argument if no file can be written there.

    Missing folders are made, and what a killed process left beside the path is removed.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {path!r}")
    try:
        with contextlib.suppress(_Unused), atomic(path):
            raise _Unused
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} {str(path)!r} cannot be written: {error}") from error
    return Path(path)


class _Unused(Exception):
    """Leaves a block of `atomic` without a file."""


def save_arrays(path: PathLike, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to an .npz file at exactly this path, all of it or nothing."""
    with atomic(path) as temporary:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
            archive.comment = _seal(kind) + bytes(64)
        _write(temporary, buffer.getbuffer()[:-64], b"")


def load_arrays(
    path: PathLike, kind: str, into: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None
) -> dict[str, np.ndarray]:
    """Every array of a file that `save_arrays` wrote as this kind, bit for bit; also given to into.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it, in the words
    of `into` if that refuses the arrays with a ValueError.
    """
    content, name = _unsealed(path, kind), "archive"
    arrays: dict[str, np.ndarray] = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except Exception as error:  # sealed, but not by this module
        raise ValueError(f"{path}: {name} is no array ({error})") from error
    try:
        into(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return arrays


def save_json(path: PathLike, kind: str, document: Mapping[str, Any]) -> None:
    """Write a document of plain Python values as JSON, all of it or nothing.

    Floats come back bit for bit; what JSON lacks is written as Python does: NaN, Infinity.
    """
    text = json.dumps({**document, "seal": ""})
    with atomic(path) as temporary:
        _write(temporary, text.removesuffix('"}').encode() + _seal(kind), b'"}\n')


def load_json(path: PathLike, kind: str) -> dict[str, Any]:
    """What `save_json` wrote as this kind; errors as for `load_arrays`."""
    try:
        document = json.loads(_unsealed(path, kind))
        del document["seal"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is no document ({error})") from error
    return document


def _seal(kind: str) -> bytes:
    return f"lpnorm {_FORMAT} {kind} sha256:".encode()


def _write(path: Path, body: bytes | memoryview, end: bytes) -> None:
    with open(path, "wb") as file:
        file.write(body)
        file.write(hashlib.sha256(body).hexdigest().encode() + end)


def _unsealed(path: PathLike, kind: str) -> bytes:
    """The bytes of a file, once its seal agrees."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    seal = _SEAL.search(content, max(0, len(content) - 200))
    if seal is None:
        raise ValueError(
            f"{path}: has no seal of lpnorm at its end: damaged or cut short, or lpnorm 0.1.0 "
            "or another program wrote it (numpy.load reads what is an .npz file, unchecked)"
        )
    if hashlib.sha256(memoryview(content)[: seal.start(3)]).hexdigest().encode() != seal[3]:
        raise ValueError(f"{path}: {_damaged(content)} is damaged (its SHA-256 is another)")
    if int(seal[1]) != _FORMAT:
        raise ValueError(f"{path}: has format {int(seal[1])}, this lpnorm reads {_FORMAT}")
    if seal[2].decode() != kind:
        raise ValueError(f"{path}: is a {seal[2].decode()} of lpnorm, not a {kind}")
    return content


def _damaged(content: bytes) -> str:
    """The entry of an archive that its own checksum shows to be damaged, else "the file"."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return (archive.testzip() or "the file").removesuffix(".npy")
    except Exception:  # a damaged zip file fails in more ways than can be listed
        return "the file"
