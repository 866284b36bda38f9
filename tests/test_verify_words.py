"""The verdicts of the verification: on many cases, on several places, and for the answers of its worker."""

from __future__ import annotations

import ast

import pytest

from clipcheck.rule import Edit, Fix, Safety, Verdict
from clipcheck.verify import sites
from clipcheck.verify.claims import Answer
from clipcheck.verify.seeds import read_before_bound
from clipcheck.verify.sites import together, verdict

# --- code that Python cannot take apart -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SyntaxError, ValueError, RecursionError, MemoryError])
def test_code_that_cannot_be_analyzed_is_not_verified(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def way(change: object) -> None:
        raise error

    monkeypatch.setattr(sites, "_WAYS", (way,))
    with sites.Verifier() as verify:
        found = verify("x = 1\n", Fix("Change", Safety.SAFE, (Edit(0, 5, "y = 2"),)))
    assert found == Verdict("not verified", reason=f"it cannot be analyzed ({error.__name__})")


# --- names that a site reads before it binds them ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("", ""),
        ("total = 0.0", ""),
        ("total = start", "start"),
        ("total += 1", "total"),
        ("total = 0.0\ntotal += 1", ""),
        ("total += step", "step total"),
        ("a = b\nb = a", "b"),
        ("a = b\nc = b", "b b"),
        ("a = b = c", "c"),
        ("a, b = c\nd = a + b", "c"),
        ("for p in ps:\n    total += p", "ps total"),
        ("total = 0\nfor p in ps:\n    total += p", "ps"),
        ("for p in ps:\n    pass\nx = p", "ps"),
        ("if c:\n    x = a\nelse:\n    y = b\nz = x + y", "c a b"),  # branches count as taken
        ("with c:\n    x = a\ny = x", "a"),
        ("x = [p for p in ps]", "ps"),
        ("x = sum(p.grad for p in ps if p is not q)", "sum ps q"),
        ("f(x)\nx = 1", "f x"),
        ("x = 1\nf(x)", "f"),
    ],
)
def test_names_whose_value_from_before_is_read(code: str, names: str) -> None:
    assert sorted(read_before_bound(ast.parse(code).body)) == sorted(names.split())


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_an_answer_of_the_worker_as_a_verdict() -> None:
    notes = ("overflow with huge gradients",)
    assert verdict(Answer(30, notes, why="`x` is wider")) == Verdict("verified", 30, notes, "`x` is wider")
    assert verdict(Answer(3, (), "gradients [3, 4]", "differs by 4", "5", "25")) == Verdict(
        "refuted", 3, reason="gradients [3, 4]: differs by 4 (before 5, after 25)"
    )
    assert verdict(Answer(3, (), "gradients [3, 4]", "raises")).reason == "gradients [3, 4]: raises"
    assert verdict(Answer(3, (), "a", "b", "", "x")).reason == "a: b (before , after x)"
    assert verdict(Answer(9, (), "every case", "nothing was compared")) == Verdict(
        "not verified", 9, reason="nothing was compared"
    )


GOOD = Verdict("verified", 3, ("overflow", "underflow"), "wider")
BAD = Verdict("refuted", 2, reason="differs")
UNKNOWN = Verdict("not verified", reason="no stand-in")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([GOOD], GOOD),
        ([GOOD, Verdict("verified", 4, ("overflow", "NaN"))], Verdict("verified", 7, ("overflow", "underflow", "NaN"), "wider")),
        ([GOOD, GOOD], Verdict("verified", 6, ("overflow", "underflow"), "wider")),
        ([GOOD, Verdict("verified", 1, (), "narrower")], Verdict("verified", 4, ("overflow", "underflow"), "wider; narrower")),
        ([GOOD, UNKNOWN, GOOD], UNKNOWN),
        ([UNKNOWN, GOOD, BAD], BAD),
        ([BAD, UNKNOWN], BAD),
        ([BAD, Verdict("refuted", 9)], BAD),
    ],
)  # fmt: skip
def test_the_worst_of_several_places_decides(places: list[Verdict], expected: Verdict) -> None:
    assert together(places) == expected


@pytest.mark.parametrize(
    ("titles", "count", "expected"),
    [
        ("a", 5, "with a"),
        ("a b", 5, "with a and b"),
        ("a b c", 5, "with a, b and c"),
        ("a b c d", 5, "with a, b, c and d"),
        ("a b c d e", 9, "with a, b, c and 2 more"),
        ("a b c d e f g", 9, "with a, b, c and 4 more"),
        ("a b", 2, "in every case"),
        ("a", 1, "in every case"),
    ],
)
def test_cases_are_listed_as_the_end_of_a_sentence(titles: str, count: int, expected: str) -> None:
    pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")
    from clipcheck.verify.replay import listed

    assert listed(titles.split(), count) == expected
