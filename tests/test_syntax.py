"""Code that is not Python is reported where it is, and hides nothing else; least of all a line that is being typed."""

from __future__ import annotations

import ast
import json
from types import SimpleNamespace

import libcst as cst
import pytest

from clipcheck.documents.program import Program, Segment
from clipcheck.engine.file import check_file, check_text
from clipcheck.engine.results import FileReport
from clipcheck.python import syntax
from clipcheck.settings.keys import Settings

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"


def look(text: str, fix: bool = False) -> FileReport:
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP002"}), "torch", fix))
    assert report.errors == ()
    return report


def test_a_python_2_file_is_checked_apart_from_its_prints() -> None:
    prints = "".join(f"    print 'step', {i}\n" for i in range(20))
    report = look(f"import torch\nfor i in xrange(9):\n{prints}    {CALL}\nexec 'x'\n", fix=True)
    assert [(f.code, f.place.line) for f in report.findings] == [("invalid-syntax", 3), ("CLIP002", 23)]
    assert report.findings[0].message.startswith("not valid Python: Missing parentheses in call to 'print'")
    assert report.fixed_data is None
    assert report.findings[1].fix is None


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ("for x y in z:\n    pass", 2),
        ("x = = 1", 2),
        ("def f(:\n    pass", 2),
        ("x = 'abc", 2),
        ("\n\nif x\n    y()\n    z()", 4),
        ("  x = 1", 2),
    ],
)
def test_a_fault_is_located_and_the_lines_after_it_are_read(bad: str, line: int) -> None:
    report = look(f"import torch\n{bad}\n{CALL}\n")
    assert [(f.code, f.place.line) for f in report.findings] == [
        ("invalid-syntax", line),
        ("CLIP002", 2 + bad.count("\n") + 1),
    ]


def test_a_null_byte_is_a_fault_where_the_interpreter_raises_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Python 3.11.4."""

    def parse(text: str) -> ast.AST:
        if "\0" in text:
            raise ValueError("source code string cannot contain null bytes")
        return ast.parse(text)

    monkeypatch.setattr(syntax, "ast", SimpleNamespace(parse=parse))
    first, second = look(f"import torch\n\nx = \0\n{CALL}\n").findings
    assert (first.place.line, first.place.column, second.place.line) == (3, 1, 4)
    assert first.message == "not valid Python: source code string cannot contain null bytes"


def test_a_null_byte_hides_no_other_finding() -> None:
    for newline in ("\n", "\r\n"):
        first, second = look(f"import torch\n\nx = \0\n{CALL}\n".replace("\n", newline)).findings
        assert (first.code, first.place.line, second.code, second.place.line) == ("invalid-syntax", 3, "CLIP002", 4)


@pytest.mark.parametrize(("lines", "found"), [(syntax.MAX_FAULTS, ["CLIP002"]), (syntax.MAX_FAULTS + 1, [])])
def test_a_program_with_too_many_faulty_lines_is_not_read(lines: int, found: list[str]) -> None:
    assert syntax.MAX_FAULTS == 50
    report = look("x = = 1\n" * lines + f"import torch\n{CALL}\n")
    assert [f.code for f in report.findings] == ["invalid-syntax", *found]


def test_a_broken_file_without_clipping_is_not_reported() -> None:
    penalty = "gradients = autograd.grad(d, x)[0]\nloss = ((gradients.norm(2, dim=1) - 1) ** 2).mean()\n"
    for text, told in ((penalty, 0), (f"{penalty}{CALL}\n", 1), (f"{penalty}p.grad.zero_()\n", 1)):
        report = check_file("x.py", f"import torch\nprint netG\n{text}".encode(), Settings())
        assert [f.code for f in report.findings].count("invalid-syntax") == told


@pytest.mark.parametrize(
    "line",
    [
        '{% if cookiecutter.tensors == "torch" -%}',
        "{%- for layer in layers %}",
        "    model = {{cookiecutter.model_name}}Model(config)",
        "    model = {{ name | lower }}.from_config(config)",
    ],
)
def test_a_template_is_not_a_broken_program_and_its_code_is_checked(line: str) -> None:
    assert [f.code for f in look(f"import torch\n{CALL}\n\n\n{line}\nx = = 1\n").findings] == ["CLIP002"]


@pytest.mark.parametrize(
    "line",
    [
        "x = {{1}} y",
        "f'{{y}} {' + (",
        "x = f'{{y}}' + = z",
        "# {{y}}\nx = = 1",
        "x = 5 {% 3",
        "x = '{% if y %}'\nz = = 1",
    ],
)
def test_braces_do_not_make_a_template(line: str) -> None:
    assert "invalid-syntax" in [f.code for f in look(f"import torch\n{line}\n{CALL}\n").findings]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("try x:\n    a\nexcept E:\n    b\n", "try:  \n    a\nexcept E:\n    b\n"),
        ("try:\n    a\nexcept E e:\n    b\n", "try:\n    a\nexcept _:  \n    b\n"),
        ("try:\n    a\nfinally x:\n    b\n", "try:\n    a\nfinally:  \n    b\n"),
        ("if a:\n    b\nelif x y:\n    c\nelse:\n    d\n", "if a:\n    b\nelif _:  \n    c\nelse:\n    d\n"),
        ("if a:\n    b\nelse x:\n    c\n", "if a:\n    b\nelse:  \n    c\n"),
        ("class A(:\n    b = 1\n", "class _: \n    b = 1\n"),
        ("def f(x y):\n    return 1\n", "def _():   \n    return 1\n"),
        ("for x y in z:  # why\n    a\n", "if _:" + " " * 15 + "\n    a\n"),
        ("x = = 1\na\n", "_      \na\n"),
        ("if a:\n    x y\n    b\n", "if a:\n    _  \n    b\n"),
        ("=\na\n", "_\na\n"),
        ("a\nx = (\n", "a\n_    \n"),
        # what only Python's own parser rejects
        ("x = = 1\ny = [*a for a in b]\nc\n", "_      \n_                  \nc\n"),
        ("a\n    b\nc\n", "a\n     \nc\n"),
        # and what only LibCST's rejects
        ("x = = 1\n(y): int = 1\nc\n", "_      \n_           \nc\n"),
    ],
)
def test_a_faulty_line_is_replaced_by_one_of_its_length_that_opens_the_same_block(text: str, left: str) -> None:
    source = syntax.parse(Program(text, (Segment(0, len(text)),)), "torch").source
    assert source is not None
    assert source.text == left


def test_nonsense_is_one_finding() -> None:
    report = look("torch.nn.utils.clip_grad_norm ((( ]]] \n" * 200)
    assert [f.code for f in report.findings] == ["invalid-syntax"]


@pytest.mark.parametrize(
    "text",
    [
        "torch.nn.utils.clip_grad_norm(\x00",
        "torch.nn.utils.clip_grad_norm(\n",
        "torch.nn.utils.clip_grad_norm('''",
        "\ttorch.nn.utils.clip_grad_norm\n  x",
    ],
)
def test_odd_line_ends_are_findings_and_do_not_crash(text: str) -> None:
    assert [f.code for f in look(text).findings] == ["invalid-syntax"]


# --- Python that the parser does not read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        ("(x): int = 1", 1),
        ("def f():\n    x = 1; (y): int", 2),
        ("async def f():\n    return [x async  # a line end here\n            for x in y]", 2),
        ("if x:\n\\\n    pass", 2),
        ("try:\n    pass\nexcept E:\n    (x): int\nelse:\n    (y): int", 4),
        ("match x:\n    case 1:\n        (x): int", 3),
        ("class A:\n    @a\n    def f(self):\n        (x): int = (\n1)", 4),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_python_that_the_parser_does_not_read_is_called_so_and_hides_nothing(odd: str, line: int, newline: str) -> None:
    ast.parse(odd)
    text = f"import torch\ndef one():\n    {CALL}\n{odd}\n{CALL}\n".replace("\n", newline)
    report = look(text, fix=True)
    last = 4 + odd.count("\n") + 1
    assert [(f.code, f.place.line) for f in report.findings] == [
        ("CLIP002", 3),
        ("not-analyzed", 3 + line),
        ("CLIP002", last),
    ]
    assert report.findings[1].message.startswith("valid Python that the parser cannot read")
    assert report.fixed_data is None


def test_statements_beside_one_that_is_not_read_are_read() -> None:
    text = f"import torch\ndef one():\n    {CALL}\n    (x): int = 1\n    {CALL}\n"
    assert [(f.code, f.place.line) for f in look(text).findings] == [
        ("CLIP002", 3),
        ("not-analyzed", 4),
        ("CLIP002", 5),
    ]


def test_only_the_cell_that_is_not_read_is_left_alone() -> None:
    cells = [{"cell_type": "code", "source": f"{part}\n"} for part in ("import torch", "(p.grad): int = 1", CALL)]
    report = check_file(
        "x.ipynb", json.dumps({"cells": cells}).encode(), Settings(frozenset({"CLIP002"}), "torch", True)
    )
    assert [(f.code, f.place.cell) for f in report.findings] == [("not-analyzed", 2)]
    assert [(f.code, f.place.cell) for f in report.fixed] == [("CLIP002", 3)]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("parser error: error at 2:3: why", "why"),
        (f"parser error: error at 2:3: {'x' * 59}", "x" * 59),
        (f"parser error: error at 2:3: one of {'x' * 60}", "unexpected token"),
        ("something else\nthan usual", "something else"),
    ],
)
def test_cells_that_are_read_one_by_one_but_not_together_are_not_read(
    monkeypatch: pytest.MonkeyPatch, message: str, told: str
) -> None:
    text = "a = 1\nb = 2\n"
    read = cst.parse_module

    def parse(piece: str) -> cst.Module:
        if piece == text:
            raise cst.ParserSyntaxError(message, lines=[piece], raw_line=2, raw_column=3)
        return read(piece)

    monkeypatch.setattr(cst, "parse_module", parse)
    source, faults = syntax.parse(Program(text, (Segment(0, 6), Segment(6, 12))), "torch")
    assert source is None
    assert faults == (syntax.Fault(9, told, 0, len(text), False),)


# --- what is being typed ----------------------------------------------------------------------------------------------

BEFORE = f"""\
import torch


def first(model):
    \"\"\"Clip.\"\"\"
    {CALL}


def second(model, xs):
    y = xs
    for x in xs:
        print(x)
    return y


def third(model):
    \"\"\"Clip.\"\"\"
    {CALL}
"""


def typed(line: int, text: str, before: str = BEFORE) -> str:
    """The program with its line number `line` replaced."""
    lines = before.splitlines()
    lines[line - 1] = text
    return "\n".join(lines) + "\n"


def calls(text: str, before: str) -> list[int]:
    report = check_text("x.py", text, Settings(frozenset({"CLIP002"}), "torch"), before)
    assert report.errors == ()
    assert [f.code for f in report.findings].count("invalid-syntax") == 1
    return [f.place.line for f in report.findings if f.code == "CLIP002"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (4, "def first(model): x = [1,"),
        (5, "    try:"),
        (10, "    y = xs \\"),
        (10, "    \\"),
        (13, "    return y\n    if x:"),  # whole lines
        (13, "    return y\n    if x:\n    try:"),
        (9, "\n\ndef new(x):\n    if x\n        y()\n\ndef second(model, xs):"),
        (16, "def third(model"),
        (2, '"""'),  # what changes the meaning of every later quote
        (2, "x = '''"),
        (2, "("),
        (2, "@"),
        (2, "if x"),
        (2, "    for y in"),
        (5, '    """Clip.'),
        (10, "    y = xs["),
        (10, "    y = xs.\n    z ="),  # two lines
        (10, "  y = xs"),
        (10, "    y = xs\n    while"),
        *((11, sign + "    for x in xs:") for sign in ("#", "#   ", "# x ")),
        (11, "    for x in"),
        (11, "    for x in xs"),
        (13, "    return y +"),
        (13, "    return y if"),
    ],
)
def test_a_line_that_is_typed_hides_no_other_finding(line: int, text: str) -> None:
    shift = text.count("\n")
    for newline in ("\n", "\r\n", "\r"):
        before, now = (one.replace("\n", newline) for one in (BEFORE, typed(line, text)))
        assert calls(now, before) == [at if at < line else at + shift for at in (6, 18)]


@pytest.mark.parametrize("before", ["", "x = (", "import os\n", BEFORE.replace("first", "fst")])
def test_the_earlier_text_may_be_useless(before: str) -> None:
    assert calls(typed(10, "    y = xs["), before) == [6, 18]


def test_a_quote_that_is_gone_hides_no_other_finding() -> None:
    """No replacement of the line where it was helps, but one of the line with the other quote does."""
    before = f'import torch\nx = """\ny\n"""\n{CALL}\n'
    assert calls(before.replace('y\n"""\n', "y\n"), before) == [4]


def test_a_line_that_is_typed_is_not_edited() -> None:
    text = typed(6, f"    x = ; {CALL}")
    report = check_text("x.py", text, Settings(frozenset({"CLIP002"}), "torch", fix=True), BEFORE)
    assert report.fixed_data is not None
    assert report.fixed_data.decode() == "norm_(".join(text.rsplit("norm(", 1))
