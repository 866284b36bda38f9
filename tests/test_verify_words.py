"""The verdicts of the verification: on many cases, on several places, and for the answers of its worker."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from clipcheck.rule import Edit, Fix, Role, Safety, Verdict
from clipcheck.verify import sites
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.claims import Answer
from clipcheck.verify.seeds import read_before_bound
from clipcheck.verify.sites import Verifier, together, verdict
from clipcheck.verify.worker import Lost

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


@pytest.mark.parametrize(
    ("code", "names", "sure"),
    [
        ("if c:\n    x = a\nz = x", "c a", "c a x"),
        ("if c:\n    pass\nelse:\n    x = a\nz = x", "c a", "c a x"),
        ("if c:\n    x = a\nelse:\n    x = b\nz = x", "c a b", "c a b"),
        ("x = 1\nif c:\n    y = 2\nz = x", "c", "c"),
        ("if c:\n    x = a\nelse:\n    z = x", "c a x", "c a x"),  # the other branch has not run
        ("if x:\n    x = a", "x a", "x a"),
        ("for p in ps:\n    x = p\nz = x", "ps", "ps"),
        ("with c:\n    x = a\nz = x", "a", "a"),
    ],
)
def test_a_name_is_surely_bound_where_both_branches_bind_it(code: str, names: str, sure: str) -> None:
    assert sorted(read_before_bound(ast.parse(code).body)) == sorted(names.split())
    assert sorted(read_before_bound(ast.parse(code).body, sure=True)) == sorted(sure.split())


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


# --- from a fix to a verdict, with a worker that is made up -----------------------------------------------------------

NORM = "import torch\ntotal = torch.norm(gs)\nprint(total)\n"
GRADIENTS = (("gs", Role.GRADIENTS),)
FINE = [3, ["a note"], "", "", "", ""]
WRONG = [2, [], "gradients [3, 4]", "differs by 1", "5", "10"]


class Answering:
    """In the place of a worker: notes what it is asked, and gives the same answer each time."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def ask(self, request: Any) -> Any:
        self.asked.append(request)
        return self.answer[request["way"]] if isinstance(self.answer, dict) else self.answer

    def stop(self) -> None:
        self.asked.append("stop")


def verifier(answer: Any) -> tuple[Verifier, Answering]:
    verify, worker = Verifier(), Answering(answer)
    verify._worker = worker  # type: ignore[assignment]
    return verify, worker


def of_norm(safety: Safety = Safety.SAFE, text: str = NORM) -> Fix:
    start = text.index("torch.norm(gs)")
    return Fix("Change", safety, (Edit(start, start + 14, "torch.norm(gs, 2)"),), roles=GRADIENTS)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FINE, Verdict("verified", 3, ("a note",))),
        ([3, [], "", "wider", "", ""], Verdict("verified", 3, (), "wider")),
        (WRONG, Verdict("refuted", 2, reason="gradients [3, 4]: differs by 1 (before 5, after 10)")),
        ([9, [], "every case", "it raises", "", ""], Verdict("not verified", 9, reason="it raises")),
        (Lost("a case, after", "did not end within 3 s"), Verdict("refuted", reason="a case, after: it did not end within 3 s")),
        (Lost("a case, before", "did not end within 3 s"), Verdict("not verified", reason="a case, before: it did not end within 3 s")),
        (Lost("a case, after", "failed in the harness", harmless=True), Verdict("not verified", reason="a case, after: it failed in the harness")),
        *(
            (answer, Verdict("not verified", reason="the worker sent an invalid answer"))
            for answer in (None, {}, "verified", [], FINE[:-1], [*FINE, ""], [3, [1], "", "", "", ""], [3, "a", "", "", "", ""], ["3", [], "", "", "", ""], [3, [], "", "", "", 5])
        ),
    ],
)  # fmt: skip
def test_what_a_worker_says_becomes_a_verdict(answer: Any, expected: Verdict) -> None:
    verify, worker = verifier({"values": answer})
    assert verify(NORM, of_norm()) == expected
    assert [request["way"] for request in worker.asked] == ["values"]
    assert verify(NORM, of_norm()) == expected
    assert len(worker.asked) == 1  # the same experiment is not run again


def test_a_verifier_stops_its_worker() -> None:
    verify, worker = verifier(FINE)
    with verify as same:
        assert same is verify and worker.asked == []
    assert worker.asked == ["stop"]


def test_of_an_unsafe_fix_other_ways_are_tried() -> None:
    verify, _ = verifier({"values": WRONG})
    assert verify(NORM, of_norm(Safety.UNSAFE)) == Verdict(
        "not verified", 2, reason="an unsafe fix: gradients [3, 4]: differs by 1 (before 5, after 10)"
    )


STEP = "import torch\ndef step(model, optimizer, loss, max_norm):\n    loss.backward()\n{}    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n"


def moved(safety: Safety) -> tuple[str, Fix]:
    """A step that moves below the clip."""
    text = STEP.format("    optimizer.step()\n")
    start, line = text.index("    optimizer"), "    optimizer.step()\n"
    return text, Fix("Change", safety, (Edit(start, start + len(line), ""), Edit(len(text), len(text), line)))


def test_a_safe_fix_is_not_verified_by_its_steps_alone() -> None:
    text, fix = moved(Safety.SAFE)
    plain = [3, [], "", "", "", ""]
    assert verifier({"training": plain})[0](text, fix) == Verdict(
        "not verified", 3, reason="its steps are the same, its values are not compared"
    )
    assert verifier({"training": FINE})[0](text, fix) == Verdict("verified", 3, ("a note",))
    assert verifier({"training": plain})[0](*moved(Safety.UNSAFE)) == Verdict("verified", 3)


def test_what_is_clipped_may_change_where_the_clip_is_not_tried() -> None:
    text = "from torch.nn.utils import clip_grad_norm_\nclip_grad_norm_(gs, unknown())\n"
    start = text.index("gs")
    fix = Fix("Change", Safety.SAFE, (Edit(start, start + 2, "list(gs)"),), roles=GRADIENTS)
    lost = Lost("a case, before", "did not end within 3 s")
    found = verifier({"values": WRONG, "training": lost})[0](text, fix)
    assert found == Verdict("not verified", reason="what is clipped changes, and the clip is not tried")


def test_imports_that_break_refute_a_fix_that_is_otherwise_verified() -> None:
    fix = of_norm()._replace(imports=(Edit(0, 0, "import clipcheck\n"),))
    broken = [1, [], "without torch", "the import raises ImportError", "", ""]
    found = verifier({"values": FINE, "imports": broken})[0](NORM, fix)
    assert found == Verdict("refuted", 1, reason="without torch: the import raises ImportError")
    for imports in (FINE, None):
        assert verifier({"values": FINE, "imports": imports})[0](NORM, fix) == Verdict("verified", 3, ("a note",))
    verify, worker = verifier({"values": WRONG, "imports": broken})
    assert verify(NORM, fix).reason.startswith("gradients [3, 4]") and len(worker.asked) == 1


@pytest.mark.parametrize(
    ("shown", "safe", "expected"),
    [
        ([UNKNOWN, GOOD], True, GOOD),
        ([BAD, GOOD], False, GOOD._replace(reason="wider; differs")),
        ([BAD, Verdict("verified", 1)], False, Verdict("verified", 1, reason="differs")),
        ([UNKNOWN, BAD], True, BAD),
        ([UNKNOWN, BAD], False, Verdict("not verified", 2, reason="an unsafe fix: differs")),
        ([BAD, UNKNOWN], False, Verdict("not verified", 2, reason="an unsafe fix: differs")),
        ([UNKNOWN, Verdict("not verified", reason="another")], True, UNKNOWN),
        ([UNKNOWN, Verdict("not verified", 4, reason="another")], True, Verdict("not verified", 4, reason="another")),
    ],
)
def test_one_verdict_of_several_ways(shown: list[Verdict], safe: bool, expected: Verdict) -> None:
    assert sites._judgment(shown, safe) == expected


def test_the_first_way_that_verifies_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def way(name: str, result: Any) -> Any:
        def found(change: object) -> list[Any]:
            tried.append(name)
            if isinstance(result, str):
                raise NotVerifiable(result)
            return [result]

        return found

    for results, safe, names in (
        (("why", GOOD, GOOD), True, "ab"),
        (("why", BAD, GOOD), True, "ab"),
        (("why", BAD, GOOD), False, "abc"),
        (("why", "why", "why"), True, "abc"),
    ):
        tried.clear()
        monkeypatch.setattr(sites, "_WAYS", tuple(way(*pair) for pair in zip("abc", results, strict=True)))
        verify, _ = verifier(None)
        monkeypatch.setattr(verify, "_try", lambda verdict: verdict)
        verify(NORM, of_norm(Safety.SAFE if safe else Safety.UNSAFE))
        assert "".join(tried) == names
