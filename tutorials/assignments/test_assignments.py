"""The public tests: one for each item that gives points. What fails says what is wrong."""

import pytest

from lpnorm.grading import NUMBERS, assignment
from lpnorm.grading.course import words

ITEMS = [
    pytest.param(
        number,
        question.name,
        item.name,
        marks=getattr(pytest.mark, f"assignment{number}"),
        id=f"{number}-{question.name}-{item.name}",
    )
    for number in NUMBERS
    for question in assignment(number).questions
    for item in question.items
    if not item.hidden
]


@pytest.mark.parametrize(("number", "question", "item"), ITEMS)
def test_item(number, question, item, functions):
    wrong = words(number, question, item, functions(number))
    if wrong:
        pytest.fail(f"{question}, {item}: {wrong}", pytrace=False)
