"""Submissions to assignment 1 that do not play by the rules, and what each of them earns.

HONEST is right for the first question; every hostile one starts with it where it says so, and gets
these two points for it and nothing for its tricks.
"""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

HONEST = """
import math

import numpy as np


def gaussian_constant(p):
    return (2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)) ** (-1 / p)
"""

FORWARD = """
def l1_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=0)
    scale = gaussian_constant(1) * abs(d).mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
"""

HANGS = f"""{HONEST}{FORWARD}
def l1_backward(dy, cache):
    while True:
        pass
"""

CRASHES = f"""{HONEST}{FORWARD}
import ctypes, os

def l1_backward(dy, cache):
    ctypes.string_at(0)

def lp_forward(x, gamma, beta, eps, p):
    os._exit(0)
"""

EXITS = f"""{HONEST}
import sys

def l1_forward(x, gamma, beta, eps):
    sys.exit(0)

sys.exit("enough")
"""

PRINTS = f"""{HONEST}
print("right " * 10_000_000)

def l1_forward(x, gamma, beta, eps):
    print("right " * 10_000)
    d = x - x.mean(axis=0)
    scale = gaussian_constant(1) * abs(d).mean(axis=0) + eps
    return gamma * d / scale + beta, None
"""

FORKS = f"""{HONEST}{FORWARD}
import os, time

def l1_backward(dy, cache):
    for _ in range(200):  # bounded, for where nothing else bounds it
        try:
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
        except OSError:
            break
    raise RuntimeError("forked")
"""

# Everything a submission could hope for inside of its process, without one right answer but HONEST.
PATCHES = f"""{HONEST}
import builtins, gc, os, sys, types

for module in list(sys.modules.values()):
    for name in ("compare", "equal", "mark", "check", "errors", "judge", "allclose", "array_equal"):
        if hasattr(module, name):
            try:
                setattr(module, name, lambda *a, **k: True)
            except Exception:
                pass
for name in ("lpnorm", "lpnorm.verify", "lpnorm.verify.oracle", "pytest", "lpnorm.grading.rubric"):
    fake = types.ModuleType(name)
    fake.__dict__.update(mark=lambda *a: [], check=lambda *a, **k: True, words=lambda *a: "")
    sys.modules[name] = fake
np.abs = np.absolute = np.max = lambda *a, **k: 0.0
np.testing.assert_allclose = lambda *a, **k: None
builtins.abs = lambda x: x * 0


class Right(np.ndarray):
    def __eq__(self, other):
        return True


def l1_forward(x, gamma, beta, eps):
    return np.zeros_like(x).view(Right), None


def l1_backward(dy, cache):
    return np.full_like(dy, np.nan), float("nan"), "right"
"""

# Takes over the loop that answers calls, and writes into every pipe there is.
HIJACKS = f"""{HONEST}
import os, sys

frame = sys._getframe()
while frame is not None:
    if "_answer" in frame.f_globals:
        frame.f_globals["_answer"] = lambda *a: ("gave", (0.0, None), ())
    frame = frame.f_back
for number in range(3, 40):
    try:
        os.write(number, b"22 points of 22 \\n" * 100)
    except OSError:
        pass
"""

READS = f"""{HONEST}
import glob, importlib, os, sys

REPOSITORY = {str(REPOSITORY)!r}
for name in [name for name in sys.modules if name.split(".")[0] == "lpnorm"]:
    del sys.modules[name]
seen = []
for folder in [REPOSITORY, os.getcwd(), "/", "/tmp", *sys.path]:
    for path in glob.glob(folder + "/*") + glob.glob(folder + "/*/assignments/*"):
        if path.endswith((".ipynb", "batchnorm.py", "oracle.py")):
            seen.append(open(path).read())
sys.path += [REPOSITORY, os.path.dirname(os.path.dirname(np.__file__))]
try:
    import lpnorm
except BaseException:
    lpnorm = None


def l1_forward(x, gamma, beta, eps):
    if lpnorm is None and not seen:
        raise RuntimeError("nothing to read")
    return lpnorm.batch_norm(x, gamma, beta, p=1, eps=eps)


def l1_backward(dy, cache):
    return lpnorm.batch_norm_backward(dy, cache)
"""

TALKS = f"""{HONEST}
import socket

def l1_forward(x, gamma, beta, eps):
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect(("127.0.0.1", PORT))
        found = s.recv(100)
    raise RuntimeError("a network: " + found.decode())
"""

# points of (gaussian_constant, l1_forward, l1_backward, lp_forward, lp_backward), and some words
EXPECTED = {
    "hangs": (HANGS, (2, 5, 0, 0, 0), "l1_backward: it took longer than"),
    "crashes": (CRASHES, (2, 5, 0, 0, 0), "l1_backward: its process crashed (SIGSEGV)"),
    "exits": (EXITS, (2, 0, 0, 0, 0), "l1_forward: it raised SystemExit"),
    "prints": (PRINTS, (2, 5, 0, 0, 0), "l1_backward: there is no function l1_backward"),
    "forks": (FORKS, (2, 5, 0, 0, 0), "l1_backward: it raised RuntimeError: forked"),
    "patches": (PATCHES, (2, 0, 0, 0, 0), "l1_forward: "),
    "hijacks": (HIJACKS, (0, 0, 0, 0, 0), "its answer"),
    "reads": (READS, (2, 0, 0, 0, 0), "l1_forward: it raised RuntimeError: nothing to read"),
}
