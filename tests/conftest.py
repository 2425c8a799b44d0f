"""Fixtures every test shares: the array library, and hypothesis' seed and number of examples.

`pytest` runs every numerical test twice: on NumPy, and on CuPy if there is a GPU or else on the
strict stand-in for it (tests/standin_cupy.py). LPNORM_EXAMPLES=1000 draws more;
LPNORM_DEVICE=gpu refuses to start where there is no usable GPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
import standin_cupy

from lpnorm import arrays

# One BLAS thread in each of xdist's workers, which inherit this: there is a worker a core already,
# and threads that wait for one another took more than half of the time.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

EXAMPLES = int(os.environ.get("LPNORM_EXAMPLES", "20"))
hypothesis.settings.register_profile(
    "lpnorm",
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("lpnorm")


def _gpu() -> str:
    """What is missing for a real GPU, in one line; "" if nothing."""
    try:
        arrays.gpu_library()
    except RuntimeError as error:
        return str(error)
    return ""


GPU_MISSING = _gpu()
if GPU_MISSING:  # an import that failed half-way must not pass for CuPy
    sys.modules.pop("cupy", None)


def pytest_configure(config: pytest.Config) -> None:
    asked = os.environ.get("LPNORM_DEVICE", "")
    if asked not in ("", "gpu"):
        raise pytest.UsageError(f'LPNORM_DEVICE must be "gpu" or not set, got {asked!r}')
    if asked and GPU_MISSING:
        raise pytest.UsageError(f"LPNORM_DEVICE=gpu: {GPU_MISSING}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """On the stand-in a quarter of hypothesis' examples.

    It computes with NumPy, so all it can find is a call that CuPy would refuse, and that depends
    on the branches taken, not on the numbers drawn.
    """
    test = getattr(item, "obj", None)
    if not getattr(test, "is_hypothesis_test", False):
        return
    settings = vars(test).setdefault("settings_on_numpy", test._hypothesis_internal_use_settings)
    library = getattr(item, "callspec", None) and item.callspec.params.get("xp")
    if library == "cupy" and GPU_MISSING:
        fewer = max(1, settings.max_examples // 4)
        settings = hypothesis.settings(settings, max_examples=fewer)
    test._hypothesis_internal_use_settings = settings


def pytest_report_header(config: pytest.Config) -> str:
    second = f"the strict stand-in for CuPy ({GPU_MISSING})" if GPU_MISSING else "CuPy on a GPU"
    seed = config.getoption("hypothesisseed", None)
    return f"hypothesis: seed {seed}, {EXAMPLES} examples; arrays: NumPy and {second}"


@dataclass(frozen=True)
class Library:
    """An array library under test: `xp(values)` makes its array, `xp.numpy(array)` reads one."""

    name: str
    module: Any

    def __call__(self, values: Any, dtype: Any = None) -> Any:
        return None if values is None else self.module.asarray(np.asarray(values, dtype))

    def numpy(self, array: Any) -> np.ndarray:
        """The array's values; fails if the array is not of this library."""
        assert isinstance(array, self.module.ndarray), f"not a {self.name} array: {type(array)}"
        return array if isinstance(array, np.ndarray) else self.module.asnumpy(array)


@pytest.fixture(scope="session", params=["numpy", "cupy"])
def xp(request: pytest.FixtureRequest) -> Iterator[Library]:
    """The array library: NumPy, then CuPy or its stand-in."""
    if request.param == "numpy":
        yield Library("NumPy", np)
    elif GPU_MISSING:
        with standin_cupy.installed() as cupy:
            yield Library("stand-in CuPy", cupy)
    else:
        yield Library("CuPy", arrays.gpu_library())


@pytest.fixture
def gpu() -> Any:
    """Real CuPy on a real device; skips with the reason where there is none."""
    if GPU_MISSING:
        pytest.skip(GPU_MISSING)
    return arrays.gpu_library()
