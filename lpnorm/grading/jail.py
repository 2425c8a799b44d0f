"""A process without network, without other processes, and with few files to see (Linux).

`enter` moves the calling process into new namespaces and a new root directory, in which there is
the standard library of Python, its shared libraries, NumPy, an empty /tmp and nothing else: not the
assignments, not lpnorm, not other submissions. Then it gives up every privilege. Written with the
system calls themselves (unshare, mount, pivot_root, prctl: see their manual pages), because the
process must already be running, with what it needs loaded, when the doors close. The standard
library alone: this file is imported by the process that runs a submission.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH = 2
PDEATHSIG, CAPBSET_DROP, NO_NEW_PRIVS = 1, 24, 38
# statvfs's words for the flags of a mount, and mount's: a remount may not drop any of them
KEPT = {1: RDONLY, 2: NOSUID, 4: NODEV, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}


class NoJail(OSError):
    """This system does not let us build one; the text is one line that says why."""


def enter(root: str, shown: list[str], hidden: list[str], packages: list[str], uid: int) -> None:
    """Returns in a new process, inside; the old one waits for it and exits as it does.

    root: an empty folder. shown: what can be read inside, by its usual path. hidden: folders among
    those that are empty inside. packages: what can be read inside hidden folders all the same.
    uid: who to be, for a process of the superuser; any other keeps its own. Raises NoJail.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def do(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            error = ctypes.get_errno()
            raise NoJail(f"{name}: {os.strerror(error)}")

    def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
        words = [None if w is None else w.encode() for w in (source, target, kind, data)]
        do("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])

    own = (os.geteuid(), os.getegid())
    superuser = own[0] == 0 and _known(uid)  # else, and in a rootless container: an own user space
    flags = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    do("unshare", flags if superuser else flags | NEWUSER)
    if not superuser:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{own[0]} {own[0]} 1"),
            ("gid_map", f"{own[1]} {own[1]} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _continue_in_a_child()
    do("prctl", PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=16m,mode=755")
    os.makedirs(root + "/tmp", exist_ok=True)  # first: what is shown may lie in /tmp itself
    mount("tmpfs", root + "/tmp", "tmpfs", NOSUID | NODEV, "size=16m,mode=1777")
    for path in shown:
        _show(path, root, mount)
    for path in hidden:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    for path in packages:
        _show(path, root, mount)
    for path in hidden:
        if os.path.isdir(root + path):
            mount("none", root + path, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    _show("/dev/null", root, mount)
    os.chdir(root)
    libc.syscall.restype = ctypes.c_long
    do("syscall", ctypes.c_long(_pivot_root()), b".", b".")
    do("umount2", b".", DETACH)
    os.chdir("/tmp")
    mount("none", "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    if superuser:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)  # those that do not exist are refused
    if superuser:
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    do("capset", header, (ctypes.c_uint32 * 6)())
    do("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    do("prctl", PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user forgets it


def _known(uid: int) -> bool:
    """Is there such a user and group, as seen from here?"""

    def holds(line: str) -> bool:
        start, _, count = map(int, line.split())
        return start <= uid < start + count

    for name in ("uid", "gid"):
        with open(f"/proc/self/{name}_map") as file:
            if not any(map(holds, file)):
                return False
    return True


def _continue_in_a_child() -> None:
    """The first child of a new process namespace is its init: when it ends, all in it end."""
    child = os.fork()
    if child:
        os.closerange(0, 64)  # so that the pipes end when the child does
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


def _show(path: str, root: str, mount: object) -> None:
    """Make path readable under root; a link is shown as a link."""
    inside = root + path
    if not os.path.lexists(path) or (os.path.lexists(inside) and os.path.islink(path)):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.makedirs(inside, exist_ok=True)
    elif not os.path.exists(inside):
        with open(inside, "w"):
            pass
    assert callable(mount)
    mount(path, inside, None, BIND | REC)
    if not stat.S_ISCHR(mode):
        found = os.statvfs(inside).f_flag
        flags = sum(flag for bit, flag in KEPT.items() if found & bit)
        mount("none", inside, None, flags | REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def _pivot_root() -> int:
    """The number of the system call, which the C library has no function for."""
    numbers = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
    machine = os.uname().machine
    if machine not in numbers or sys.maxsize < 2**32:
        raise NoJail(f"the system calls of {machine} are not known")
    return numbers[machine]
