"""The command: `python -m lpnorm`, what it says of a misspelling, and readers that leave early."""

import os
import subprocess
import sys

import pytest

from lpnorm import cli
from lpnorm.cli import main
from lpnorm.verify.__main__ import norm_named

CANDIDATE = "def forward(x, gamma, beta, eps):\n    return x, None\n"


def command(*arguments, **options):
    line = [sys.executable, "-m", "lpnorm", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, **options)


def test_python_m_is_the_command():
    done = command("--version")
    assert done.returncode == 0 and done.stdout.startswith("lpnorm "), done.stderr
    assert command().returncode == 2


@pytest.mark.parametrize("arguments", [["check", "CANDIDATE"], ["check", "--help"],
                                       ["reproduce", "--list"], ["--help"]])  # fmt: skip
def test_a_reader_that_has_left_is_no_error_of_ours(tmp_path, arguments):
    (tmp_path / "own.py").write_text(CANDIDATE)
    given = [str(tmp_path / "own.py:forward") if a == "CANDIDATE" else a for a in arguments]
    line = [sys.executable, "-m", "lpnorm", *given]
    own = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, env=own) as process:
        process.stdout.close()  # as `| head` does, but sooner than it can write
        words = process.stderr.read().decode()
        assert process.wait(timeout=100) == 141 and words == "", words


@pytest.mark.parametrize("text, meant", [
    ("L1", "1"), ("l2", "2"), ("Linf", "inf"), ("L_inf", "inf"), ("L-infinity", "inf"),
    ("lp=3", "3"), ("∞", "inf"), ("max", "inf"), ("one", ""), ("0.5", ""), ("nan", ""), ("", ""),
    ("1e306", ""),
])  # fmt: skip
def test_a_norm_that_is_none_is_named_with_what_was_meant(text, meant):
    with pytest.raises(ValueError) as caught:
        norm_named(text)
    words = f"--p must be a number from 1 to 65504, inf, top10 (any k) or range, got {text!r}"
    assert str(caught.value) == words + (f" (did you mean {meant}?)" if meant else "")


def test_check_names_p_before_it_runs_the_candidate(tmp_path):
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')\n" + CANDIDATE)
    done = command("check", str(tmp_path / "own.py:forward"), "--p", "L1")
    assert done.returncode == 2
    words = done.stderr
    assert "--p must be" in words and "did you mean 1?" in words and "it was run" not in words


@pytest.mark.parametrize("given, meant", [
    ("weigth-decay", "weight-decay"), ("exact_step", "exact-step"), ("norm", "norms"),
    ("Half-Range", "half-range"), ("xyz", None),
])  # fmt: skip
def test_a_misspelt_claim(given, meant, capsys):
    assert cli.main(["reproduce", given]) == 2
    words = capsys.readouterr().err
    assert repr(given) in words and "scale-invariance" in words and words.count("\n") == 1
    assert (f"did you mean {meant}?" in words) if meant else ("did you mean" not in words)


def test_the_help_of_check_states_what_a_candidate_looks_like(capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    assert "forward(x, gamma, beta, eps) -> y, cache" in " ".join(capsys.readouterr().out.split())


PLAIN_SGD = """
class SGD:
    def __init__(self, parameters, lr=0.1, momentum=0.9):
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.buffers = [0.0 for _ in self.parameters]

    def step(self):
        for i, p in enumerate(self.parameters):
            if p.grad is not None:
                self.buffers[i] = self.momentum * self.buffers[i] + p.grad
                p.data[...] = p.data - self.lr * self.buffers[i]
"""


def test_the_settings_of_sgd_are_given_on_the_command_line(tmp_path, capfd):
    path = tmp_path / "plain.py"
    path.write_text(PLAIN_SGD + "\n\nmade = lambda parameters: SGD(parameters)\n", encoding="utf-8")
    line = ["check", f"{path}:SGD", "--layer", "sgd", "--lr", "0.1"]
    assert main([*line, "--momentum", "0.5"]) == 0  # a class is given them
    line[1] = f"{path}:made"
    assert main([*line, "--momentum", "0.9"]) == 0
    assert main([*line, "--momentum", "0.5"]) == 1
    assert "the last step counts 0.9 times in a step, 0.5 is right" in capfd.readouterr().out
    assert main([*line, "--momentum", "0.9", "--weight-decay", "0.1"]) == 1
    assert main([*line, "--momentum", "0.9", "--nesterov"]) == 1
    with pytest.raises(SystemExit):
        main([*line, "--momentum", "old"])
    assert "must be new, kept or a number" in capfd.readouterr().err
