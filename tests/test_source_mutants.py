"""The mutants of `make mutate-source`: what is changed, what is left out, and that nothing else changes."""

from __future__ import annotations

import pytest
from source_mutants import alters, mutants
from source_tests import importers, lines_of, loaded


def made(source: str) -> set[str]:
    return {mutant.applied(source) for mutant in mutants("x.py", source) if alters(mutant, source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"(a <= b)", "pass"}),
        ("x = a == b", {"x = (a != b)"}),
        ("x = a and b", {"x = (a or b)", "x = (b)", "x = (a)"}),
        ("x = not a", {"x = (a)"}),
        ("x = a + b", {"x = (a - b)"}),
        ("x = 1", {"x = 2"}),
        ("x = True", {"x = False"}),
        ("x = 'word'", {"x = ''"}),
        ("x = ''", {"x = 'mutated'"}),
        ("x = a if b else c", {"x = (c if b else a)"}),
        ("x = any(y)", {"x = all(y)"}),
        ("x = y.startswith(z)", {"x = (y.endswith(z))"}),
        ("x = a, b", {"x = ((a,))", "x = ((b,))"}),
        ("f(é, 1)  # ü", {"f(é, 2)  # ü", "pass  # ü"}),
        ("def f():\n    return x", {"def f():\n    return None"}),
        ("def f():\n    return False", {"def f():\n    return True"}),
        ("def f():\n    return [x]", {"def f():\n    return None"}),
        ("for a in b:\n    break", {"for a in b:\n    continue"}),
        ("if a:\n    b = c", {"if not (a):\n    b = c"}),
        ("[a for a in b if c]", {"[a for a in b if not (c)]", "[a for a in b if True]", "pass"}),
        (
            "match a:\n    case 1 | 2:\n        b = c",
            {
                f"match a:\n    case {case}:\n        b = c"
                for case in ("1", "2", "1 | 2 if False", "2 | 2", "1 | 3")
            },
        ),
        ("match a:\n    case b if c:\n        d = e", {f"match a:\n    case b if {x}:\n        d = e" for x in ("not (c)", "True")}),
        ("x += a", {"pass"}),
        ("raise E", {"pass"}),
    ],
)  # fmt: skip
def test_what_is_changed(source: str, expected: set[str]) -> None:
    assert {text.replace("(1)", "1").replace("(2)", "2") for text in made(source)} == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""Docs."""',
        "x = 'a sentence with spaces'",
        "x: Literal['a', 'b']",
        "def f(x: 'A') -> 'B':\n    y",
        "if TYPE_CHECKING:\n    x = 1",
        "X: TypeAlias = 'Y'",
        "T = TypeVar('T')",
        "__all__ = ['a', 'b']",
        "@lru_cache(maxsize=8)\ndef f():\n    y",
        "x = f'{y + 1}'",
        "def f():\n    return []",
        "import a, b",
    ],
)
def test_what_no_test_could_notice_is_left_out(source: str) -> None:
    assert made(source) <= {source.replace("    y", "    pass")}


def test_a_mutant_knows_its_statement_and_whether_it_runs_at_import() -> None:
    source = "x = (\n    1,\n    a)\ndef f(y=2):\n    if a:\n        return 3\n"
    found = {
        (m.text, m.first, m.last, m.at_import)
        for m in mutants("x.py", source)
        if m.what in ("number", "condition turned")
    }
    assert found == {("2", 1, 3, True), ("3", 4, 4, True), ("4", 6, 6, False), ("not (a)", 5, 5, False)}


def test_who_imports_a_module() -> None:
    texts = {
        "a.py": "from clipcheck.rule import Fix\n",
        "b.py": "def f():\n    import clipcheck.rule\n",
        "c.py": "from clipcheck import catalogue, rule\n",
        "d.py": "from clipcheck.rules import double_clip\nfrom clipcheck import rules\n",
        "e.py": "# import clipcheck.rule\n",
    }
    assert importers("clipcheck/rule.py", texts) == ["a.py", "b.py", "c.py"]
    assert importers("clipcheck/rules/__init__.py", texts) == ["d.py"]
    assert importers("clipcheck/rules/double_clip.py", texts) == ["d.py"]


def test_what_a_module_loads_it_loads_in_steps() -> None:
    texts = {
        "p/a.py": "def f():\n    from p import b\n",
        "p/b.py": "from p.c import d\n",
        "p/c.py": "import p.a\n",
        "p/e.py": "import p.a\n",
    }
    assert loaded("p/a.py", texts) == {"p/a.py", "p/b.py", "p/c.py"}


def test_the_lines_of_a_function() -> None:
    assert [*lines_of("f", "class A:\n    @x\n    def f(\n        y):\n        a\n        b\n    c\n")] == [5, 6]
