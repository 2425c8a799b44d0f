"""The command `lpnorm grade`: what it prints and when it refuses."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap

from tabulate import tabulate

from lpnorm.grading import grade as grading
from lpnorm.grading import sandbox, submissions
from lpnorm.grading.course import assignment


def run(options: argparse.Namespace) -> int:
    """Mark a folder of submissions; the exit status: 0, 2 if it cannot be done, 130 interrupted."""
    asked = assignment(options.assignment)
    try:
        found = submissions.find(options.folder)
    except OSError as error:
        return _cannot_grade(f"cannot read {options.folder}: {error.strerror}")
    if not found:
        return _cannot_grade(f"there is no submission (.py, .ipynb, folder) in {options.folder}")
    if not options.unsafe and (missing := sandbox.jail_works()):
        return _cannot_grade(
            f"submissions cannot be shut off from this machine here ({missing}); "
            "--unsafe runs them all the same, as you and with your files and network"
        )
    seed = grading.fresh_seed() if options.seed is None else options.seed
    limits = sandbox.Limits(options.timeout or asked.seconds, options.memory)
    plan = grading.Plan(asked.number, seed, limits, jailed=not options.unsafe)
    results = []
    try:
        for result in grading.grade_all(found, plan, options.jobs):
            results.append(result)
            if options.csv is not None:  # after each, so that an interruption costs none
                grading.write_csv(options.csv, results, asked.number)
            print(
                f"{len(results)}/{len(found)} {result.name}: {result.points} of {asked.points}",
                file=sys.stderr,
            )
    except grading.CannotStart as error:
        return _cannot_grade(f"no process for a submission: {error}")
    except OSError as error:
        return _cannot_grade(f"cannot write --csv {options.csv}: {error}")
    except KeyboardInterrupt:
        return 130
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for an ASCII terminal
    header, lines = grading.rows(results, asked.number)
    width = max(40, shutil.get_terminal_size((120, 24)).columns - 72)
    short = [[*line[:-1], textwrap.shorten(str(line[-1]), width)] for line in lines]
    print(f"Assignment {asked.number}: {asked.title}")
    print(tabulate(short, [name.replace("_", "_\n") for name in header], disable_numparse=True))
    if common := grading.common_mistakes(results):
        print("\nWhat is wrong most often:")
        for words, count in common:
            print(textwrap.fill(f"{count} x  {words}", width + 60, subsequent_indent="     "))
    print(f"\nSeed {seed}: --seed {seed} draws the same cases again.")
    return 0


def _cannot_grade(why: str) -> int:
    print(f"lpnorm: {why}", file=sys.stderr)
    return 2
