"""A program without comments and strings: all of its code, line by line."""

import io
import re
import tokenize
from pathlib import Path

import pytest

from clipcheck.python.stripped import stripped

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("program", "left"),
    [
        ("x = 1  # the gradient\n", "x = 1   \n"),
        ('x = "of the gradient"\n', "x =  \n"),
        ("x = 'it\\'s of the gradient'; y\n", "x =  ; y\n"),
        ('"""One gradient.\n\nTwo.\n"""\nx\n', " \n\n\n\nx\n"),
        ("'''a \" b''' + c\n", "  + c\n"),
        ("r'a \\' + b\n", "r'a \\' + b\n"),  # the string continues on the next line
        ('x = "# no comment"; grad\n', "x =  ; grad\n"),
        ('x = "a \\\nb c"; grad\n', "x =  \n; grad\n"),
        ("x = 1  # a \"quote\ngrad = 'a b'\n", "x = 1   \ngrad =  \n"),
        ('rb"a b" rB"c d"\n', "rb  rB \n"),
    ],
)
def test_comments_and_strings_are_removed(program: str, left: str) -> None:
    assert stripped(program.encode()).decode() == left


@pytest.mark.parametrize(
    "program",
    [
        "getattr(utils, 'clip_grad_norm')\n",
        'f"the norm {g.norm().item()} of it"\n',
        'rf"the {grad} of it"\n',
        'FR"the {grad} of it"\n',
        'f"""the\n{grad}\n of it"""\n',
        't"the {grad} of it"\n',
        "x = '' + y\n",
        "x = '''''' + y\n",
        "the gradient isn't here\n",
    ],
)
def test_what_may_be_code_stays(program: str) -> None:
    assert stripped(program.encode()).decode() == program


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_stays_on_its_line(end: str) -> None:
    program = end.join(['"""A', "", "text of two words.", '"""', "x = 'a b'  # c d", "grad"])
    lines = stripped(program.encode()).splitlines()
    assert len(lines) == 6
    assert lines[-1] == b"grad"


def test_an_unterminated_quote_affects_no_other_line() -> None:
    assert stripped(b"x = 'a b\ngrad\n") == b"x = 'a b\ngrad\n"


FILES = sorted(path for folder in ("clipcheck", "fixtures", "tests") for path in (ROOT / folder).rglob("*.py"))


def test_no_name_of_a_program_is_lost() -> None:
    """According to Python's tokenizer, for which an f-string is one token before 3.12, and several since."""
    assert len(FILES) > 300
    for path in FILES:
        data = path.read_bytes()
        left = [set(re.findall(rb"\w+", line)) for line in stripped(data).splitlines()]
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            if token.type == tokenize.NAME:
                assert token.string.encode() in left[token.start[0] - 1], (path, token)
