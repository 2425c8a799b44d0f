"""The promise: a training's bits are the same for any number of threads, plain or compiled."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lpnorm

if importlib.util.find_spec("numba") is None or importlib.util.find_spec("threadpoolctl") is None:
    pytest.skip('needs the extra "fast"', allow_module_level=True)

SCRIPT = """
import hashlib, sys, importlib
from lpnorm import data, models, nn, threads, training
from lpnorm.decay import SGD
name, epochs, dtype, checkpoint = sys.argv[1:]
threads.WORTH = 4  # even these small batches are shared out
digits = data.digits(dtype)
few = data.Dataset(digits.train_x[:320], digits.train_y[:320], digits.test_x, digits.test_y)
model = models.digits_net(lambda c: nn.BatchNorm(c, p=1), nn.WeightNorm, 4, dtype=dtype)
model.to(impl=importlib.import_module(name))
optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
training.train(model, few, optimizer, int(epochs), batch=32, checkpoint=checkpoint or None,
               progress=False)
digest = hashlib.sha256()
for array in model.state().values():
    digest.update(array.tobytes())
print(digest.hexdigest())
"""


def trained(name, threads, blas, epochs=1, dtype="float32", checkpoint=""):
    """sha256 of the weights after a training in another process."""
    root = str(Path(lpnorm.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(epochs), dtype, str(checkpoint)],
        env={
            **os.environ,
            "PYTHONPATH": root,
            "LPNORM_THREADS": str(threads),
            **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(blas)),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FAST, PLAIN = "lpnorm.fast", "lpnorm.plain"


def test_plain_and_compiled_with_any_number_of_threads():
    runs = [(PLAIN, 1, 1), (PLAIN, 5, 2), (FAST, 1, 2), (FAST, 2, 1), (FAST, 5, 5)]
    assert len({trained(*run) for run in runs}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_number_of_threads(dtype):
    counts = (1, 2, 5)
    runs = [(name, own, blas) for name in (PLAIN, FAST) for own in counts for blas in counts]
    assert len({trained(*run, dtype=dtype) for run in runs}) == 1


def test_resumed_by_another_with_other_threads(tmp_path):
    """One epoch by each, each from the other's checkpoint, and two epochs at once."""
    want = trained(FAST, 2, 2, 2)
    trained(PLAIN, 5, 1, 1, checkpoint=tmp_path / "one")
    assert trained(FAST, 1, 5, 2, checkpoint=tmp_path / "one") == want
    trained(FAST, 2, 1, 1, checkpoint=tmp_path / "other")
    assert trained(PLAIN, 1, 2, 2, checkpoint=tmp_path / "other") == want
