"""Some of the inputs of each rule of experiments/checks/odd_inputs/, which asks all of them."""

import itertools
import os
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from experiments.checks.odd_inputs import ask
from experiments.checks.odd_inputs.right import REFUSED, RULES, Input


@pytest.fixture(scope="module")
def _folder() -> Iterator[None]:
    with mock.patch.dict(os.environ), mock.patch.object(sys, "argv"), ask.working_folder():
        yield


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("title", RULES)
def test_an_answer_is_the_stated_one(title: str) -> None:
    asked = list(itertools.islice(RULES[title](), 3, None, 29))[:2]
    for given in asked:
        code, _, told = ask.answer(given)
        assert ask.fault(given, code, told) is None, given
    assert asked


def test_an_answer_that_is_not_the_stated_one_is_found() -> None:
    given = Input(("fit",), REFUSED, ("--data.size",))
    right = "lifted fit: --data.size=0: give more\n"
    assert ask.fault(given, 2, right) is None
    assert ask.fault(given, 1, right)
    assert ask.fault(given, 2, right.replace("size", "sise"))
    assert ask.fault(given, 2, right + "Traceback (most recent call last)\n")
    assert ask.fault(given, 2, right * 2)
