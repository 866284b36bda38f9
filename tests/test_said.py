"""What the code around a value says that it is."""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.python.said import said, said_here
from clipcheck.python.source import Source


def value(text: str) -> tuple[Source, cst.Call]:
    """A program and its one call `here()`."""
    source = Source(text)
    (call,) = (c for c in source.nodes(cst.Call) if isinstance(c.func, cst.Name) and c.func.value == "here")
    return source, call


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("here()", set()),
        ("total_norm = here()", {"total", "norm"}),
        ("model.grad_norm = here()", {"grad", "norm"}),
        ("size: float = here()", {"size"}),
        ("log(size=here())", {"size"}),
        ("log({'grad/norm': here()})", {"grad", "norm"}),
        ("log('norm', here())", {"norm"}),
        ("print(f'norm {here()}')", {"f", "norm", "here"}),  # the whole string, with what is in it
        ("print('norm: {}'.format(here()))", {"norm"}),
        ("here().log('norm')", set()),  # what is asked of the value
        ("here().log('norm')('size')", set()),
        ("log(here().log('norm'), 'size')", {"size"}),
        ("print('norm: %f' % here())", {"norm", "f"}),
        ("'norm'.join(x).y(z)(here)\nhere()", set()),
    ],
)
def test_what_a_statement_says(text: str, words: set[str]) -> None:
    assert said_here(*value(text)) == words == said(*value(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def grad_norm():\n    return here()", {"grad", "norm"}),
        ("def grad_norm():\n    size = here()\n    return size", {"size"}),
        ("def grad_norm():\n    return lambda: here()", set()),
    ],
)
def test_what_the_function_that_returns_it_says(text: str, words: set[str]) -> None:
    assert said(*value(text)) == words


def test_the_name_of_a_value_is_said_as_well() -> None:
    source = Source("print(grad_norm)")
    (name,) = (n for n in source.nodes(cst.Name) if n.value == "grad_norm")
    assert said(source, name) == {"grad", "norm"}
