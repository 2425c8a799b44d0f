"""The judge for weight norm, bounded weight norm and SGD: what is right, and what is named."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import lpnorm
from lpnorm import decay, verify
from lpnorm.verify import weights
from lpnorm.verify.formula import SGD, WEIGHT
from lpnorm.verify.mistakes import DESCENT, WEIGHTS

WN, BWN = "weight_norm", "bounded_weight_norm"
ours = {
    WN: (lpnorm.weight_norm, lpnorm.weight_norm_backward),
    BWN: (lpnorm.bounded_weight_norm, lpnorm.bounded_weight_norm_backward),
}


@pytest.mark.parametrize("layer", ours)
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", None])
def test_the_library_is_correct(layer, p, dtype):
    forward, backward = ours[layer]
    report = verify.check((forward, backward), layer=layer, p=p, dtype=dtype)
    assert report.verdict == "correct", str(report)
    assert len(report.checks) >= 5
    report = verify.check(
        (functools.partial(forward, accumulate="float16"), backward), layer, p, dtype="float16"
    )
    assert report.ok, str(report)


def test_another_axis_and_a_forward_alone():
    pair = ours[WN]
    assert verify.check(pair, WN, p=2, axis=1).ok
    turned = functools.partial(lpnorm.weight_norm, axis=1), lpnorm.weight_norm_backward
    assert verify.check(turned, WN, p=2, axis=1).ok
    assert not verify.check(turned, WN, p=2).ok
    assert verify.check(lambda v, g: lpnorm.weight_norm(v, g)[0], WN, p=2).ok


def variant(mistake):
    """A NumPy pair with one mistake of the catalogue, in float64."""

    def forward(v, g):
        case = SimpleNamespace(
            arrays={"v": v, "dw": v, "g": np.broadcast_to(g, len(v))}, settings={}, p=forward.p
        )
        found = WEIGHT.run(weights.given(case), mistake.lines)
        return found.w.astype(v.dtype), (v, np.broadcast_to(g, len(v)))

    def backward(dw, cache):
        case = SimpleNamespace(
            arrays={"v": cache[0], "dw": dw, "g": cache[1]}, settings={}, p=forward.p
        )
        found = WEIGHT.run(weights.given(case), mistake.lines)
        dv = np.broadcast_to(found.dv, dw.shape).astype(dw.dtype)
        dg = np.broadcast_to(found.dg.reshape(-1), len(dw)).astype(dw.dtype)
        return (dv, dg) if backward.layer == WN else dv

    return forward, backward


@pytest.mark.parametrize("layer", ours)
@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
def test_every_mistake_is_named(layer, p):
    missed = []
    tried = 0
    for mistake in WEIGHTS:
        if not mistake.applies(layer, p) or "rho" in mistake.name:
            continue
        forward, backward = variant(mistake)
        forward.p, backward.layer = p, layer
        report = verify.check((forward, backward), layer, p, dtype=("float32", "float64"))
        tried += 1
        if report.ok or not any(mistake.diagnosis in d for d in report.diagnoses):
            missed.append((mistake.name, report.verdict, report.diagnoses[:1]))
    print(f"{layer}, p = {p}: {tried - len(missed)} of {tried} named")
    assert tried >= 9 and not missed, missed


MODES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.05},
    {"momentum": 0.9, "weight_decay": 0.05, "decoupled": True},
    {"momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_our_sgd_is_correct_and_its_settings_are_read(mode):
    def factory(parameters):
        return decay.SGD(parameters, lr=0.1, **mode)

    assert verify.check(factory, "sgd").verdict == "correct"
    assert verify.check(factory, "sgd", lr=0.1, **mode).verdict == "correct"
    assert verify.check(factory, "sgd", lr=0.2, **mode).verdict == "wrong"


@pytest.mark.parametrize("mode", [m for m in MODES if not m.get("decoupled")], ids=str)
def test_torch_sgd_is_correct(mode):
    torch = pytest.importorskip("torch")
    report = verify.check(lambda ps: torch.optim.SGD(ps, lr=0.1, **mode), "sgd", lr=0.1, **mode)
    assert report.verdict == "correct", str(report)


FULL = {"lr": 0.1, "momentum": 0.75, "dampening": 0.25, "weight_decay": 0.5}
FULL |= {"nesterov": False, "decoupled": False}


class Variant:
    """An optimizer with a mistake of the catalogue, one group, parameters of lpnorm.nn."""

    def __init__(self, parameters, mistake, settings):
        groups = parameters if isinstance(parameters[0], dict) else [{"params": parameters}]
        self.groups = [{**settings, **group} for group in groups]
        self.mistake, self.b, self.old = mistake, {}, {}

    def step(self):
        for group in self.groups:
            settings = {k: v for k, v in group.items() if k != "params"}
            for p in group["params"]:
                if p.grad is None:
                    continue
                first = id(p) not in self.b
                start = {"w_old": p.data.astype("f8"), "b_old": self.b.get(id(p), 0 * p.data)}
                start |= {"gradient": p.grad.astype("f8"), "first": first, **settings}
                v = SGD.run(start, self.mistake.lines)
                p.data, self.b[id(p)] = v.w.astype(p.data.dtype), v.b


@pytest.mark.parametrize("mistake", DESCENT, ids=lambda m: m.name)
def test_every_mistake_of_sgd_is_named(mistake):
    named = []
    for mode in ({}, {"nesterov": True, "dampening": 0.0}, {"decoupled": True}):
        settings = {**FULL, **mode}
        report = verify.check(lambda ps, s=settings: Variant(ps, mistake, s), "sgd", **settings)
        if not report.ok:
            named.append(mistake.diagnosis in report.diagnoses)
    assert any(named), f"{mistake.name}: {named}"


def test_the_velocity_form_is_a_convention():
    class Velocity(Variant):
        def step(self):
            for group in self.groups:
                for p in group["params"]:
                    if p.grad is not None:
                        b = self.b.get(id(p), 0 * p.data)
                        g = p.grad + group.get("weight_decay", 0) * p.data
                        self.b[id(p)] = group["momentum"] * b + group["lr"] * g
                        p.data = p.data - self.b[id(p)]

    settings = {"lr": 0.1, "momentum": 0.5}
    report = verify.check(lambda ps: Velocity(ps, None, settings), "sgd", **settings)
    assert report.ok and "velocity form" in report.verdict, str(report)


def test_bad_calls_name_the_argument():
    for wrong, words in (
        ({"layer": "sgd", "rate": 1}, "sgd has no setting 'rate'"),
        ({"layer": WN, "lr": 1}, "lr is a setting of sgd, not of weight_norm"),
        ({"layer": WN, "p": lpnorm.TopK(2)}, "p of a weight norm must be"),
        ({"layer": "nothing"}, "layer must be one of"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            verify.check(ours[WN], **wrong)
    report = verify.check(3, "sgd")
    assert report.verdict == "could not run" and not report.ok


def test_an_input_that_is_changed():
    def forward(v, g):
        v /= np.sqrt((v * v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
        return v * g.reshape(-1, *[1] * (v.ndim - 1))

    report = verify.check(forward, WN, p=2)
    assert report.verdict == "wrong" and "v is modified" in report.diagnoses[0]
