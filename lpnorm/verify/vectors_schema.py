"""What a vectors folder means, in words, and the JSON schema of its manifest."""

from __future__ import annotations

from typing import Any

TEXTS = {
    "how": "For each case read the inputs, compute the outputs, and write each as "
    "<id>.<output>.out.npy (the name is under outputs.<output>.out) beside the expected values; "
    "then run: lpnorm check FOLDER. Outputs may have any real dtype; those that are not there are "
    "not judged. cases.txt has the same cases, one a line, for programs without a JSON reader.",
    "files": ".npy files of format version 1.0, little-endian, C order. Inputs have the case's "
    "dtype, expected values and bounds are float64. sha256 is that of the case's input files, one "
    "after another.",
    "axis": "batch_norm: the channels, which gamma and beta have; layer_norm: the axes normalized "
    "over, which gamma and beta have; weight norms: the output channels; counted from 0.",
    "formulas": "mu = mean(x), d = x - mu, s = constant * statistic(d) with eps in its place "
    "('added': s + eps, 'root': sqrt(s^2 + eps)), y = gamma d / s + beta; dx, dgamma, dbeta are "
    "the gradients for the upstream gradient dy. statistic: p a number: (mean |d|^p)^(1/p); inf: "
    "max |d|; top10: the mean of the 10 largest |d|; range: max d - min d. weight_norm: "
    "w = g v / ||v||_p for each output channel, ||.||_p a plain sum; dv, dg for dw. "
    "bounded_weight_norm: rho (settings) for g; the output bounded_norm is "
    "||V||_p / N^(1/p), N output channels. sgd: the weights after each step, as torch.optim.SGD.",
    "tolerance": "|output - expected| <= bound, entry by entry, is what rounding explains: derived "
    "from the dtype, n, the size of the terms, and sums in any order in the accumulator. An entry "
    "with an infinite bound is not judged: the dtype cannot hold it, or a right formula may meet "
    "1 / s^2 that it cannot hold. At ties the bounds allow every subgradient; see ties.",
    "ties": "Where the statistic has a kink any element of its subdifferential is right. With h "
    "the gradient of the statistic times its number of slots: the tied entries share 'slots' of "
    "them, each share between 0 and 1, added up exactly 'slots' (so +-1 times the share is in h); "
    "slots null: sign(0) may be anything in [-1, 1]. entries count within the group in C order. "
    "lpnorm check reads h back from dx (dv) and judges its membership; the expected values share "
    "equally and take sign(0) = 0.",
    "conventions": "The constant and the value of eps are demanded. Where eps is, which "
    "subgradient is chosen at ties, and a float16 accumulator are recognised as conventions. With "
    "the flag float16-overflow and a finite p above 1, infinite sums (y = beta) are one too.",
}

FLAGS = {
    "ties": "tied values: the norm has a kink",
    "zeros": "deviations (weights) that are exactly 0",
    "constant-channel": "a group of equal values: the scale is eps alone",
    "float16-overflow": "the p-th powers of the deviations overflow float16 for p = 2 and 3",
    "n=1": "one value a group",
    "small-n": "groups of three values",
    "large": "large values",
    "tiny": "small values",
    "offset": "a mean far above the deviations",
}

_NAME = {"type": "string", "minLength": 1}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_OR_NULL: dict[str, Any] = {"type": ["number", "null"]}


def _object(required: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": required,
        "required": list(required),
        "additionalProperties": False,
    }


_INPUT = _object({"file": _NAME, "shape": _SHAPE}, "an array to read, of the case's dtype")
_OUTPUT = _object(
    {"expected": _NAME, "bound": _NAME, "out": _NAME, "shape": _SHAPE},
    "an array to compute: files of the expected values and of the bounds, and the file to write",
)
_TIE = _object(
    {
        "group": {"type": "integer", "minimum": 0},
        "where": {"enum": ["zero", "maximum", "minimum", "last place"]},
        "slots": {"type": ["integer", "null"]},
        "entries": _SHAPE,
    },
    TEXTS["ties"],
)
_CASE = _object(
    {
        "id": {**_NAME, "description": "also the start of its files' names"},
        "layer": {
            "enum": ["batch_norm", "layer_norm", "weight_norm", "bounded_weight_norm", "sgd"]
        },
        "shows": {**_NAME, "description": "what the case is for"},
        "name": {**_NAME, "description": "its name in reports"},
        "p": {"enum": ["1", "2", "3", "1.5", "inf", "top10", "range", None]},
        "flags": {
            "type": "array",
            "items": {"enum": list(FLAGS)},
            "description": "; ".join(f"{name}: {words}" for name, words in FLAGS.items()),
        },
        "dtype": {"enum": ["float16", "float32", "float64"]},
        "accumulator": {
            "enum": ["float32", "float64"],
            "description": "the dtype of statistics and sums that the bounds assume",
        },
        "constant": {
            "oneOf": [
                {"type": "null"},
                _object(
                    {"name": {"enum": ["paper"]}, "value": {"type": "number"}, "n": {"minimum": 1}},
                    "C, its name in lpnorm, and the n values of a group it was computed for",
                ),
            ]
        },
        "eps": _OR_NULL,
        "eps_place": {"enum": ["added", "root", None]},
        "axis": {**_SHAPE, "description": TEXTS["axis"]},
        "settings": {
            "type": "object",
            "description": "bounded_weight_norm: rho; sgd: lr, momentum, dampening, nesterov, "
            "weight_decay, decoupled",
            "additionalProperties": {"type": ["number", "boolean"]},
        },
        "inputs": {"type": "object", "additionalProperties": _INPUT},
        "outputs": {"type": "object", "additionalProperties": _OUTPUT},
        "ties": {"type": "array", "items": _TIE},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "one case",
)
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "lpnorm vectors: manifest.json",
    **_object(
        {
            "format": {"const": 1},
            "version": {**_NAME, "description": "of the lpnorm that wrote it"},
            "schema": {"const": "schema.json"},
            **{name: {"type": "string"} for name in TEXTS},
            "cases": {"type": "array", "items": _CASE, "minItems": 1},
        },
        "cases to compute in any language, with expected values and bounds",
    ),
}
