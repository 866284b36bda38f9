"""A site on all cases: which fails first, what is noted of the others, and when nothing was compared."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify import battery  # noqa: E402
from clipcheck.verify.claims import Answer  # noqa: E402
from clipcheck.verify.replay import replay  # noqa: E402

PATHS = ("torch.nn.utils.clip_grad_norm_", "torch.stack", "torch.sqrt", "builtins.float", "clipcheck.runtime.grad_norm")
ROLES = {"ps__call": "parameters", "c__name": "max_norm"}
CLIP = "torch__nn__utils__clip_grad_norm_(ps__call(), c__name)"
RAISES = "ps__call().nothing"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cases: three with gradients, one without."""
    every = {case.title: case for case in battery.cases(frozenset(ROLES.values()))}
    kept = [every[title] for title in ("gradients [3, 4]", "ordinary gradients", "huge gradients", "no parameters")]
    monkeypatch.setattr(battery, "cases", lambda roles: kept if roles == {"parameters", "max_norm"} else [])


def side(value: str, arguments: str = "", name: str = "value__0") -> list[Any]:
    names = {path.replace(".", "__"): path for path in PATHS}
    return [f"def site({arguments}):\n    {name} = {value}\n    return ('locals', bound__now())", names]


def tried(before: str, after: str, reference: str = "", at: Any = lambda case: None, **more: Any) -> Answer:
    sides = {"before": side(before), "after": side(after), "reference": side(reference or before)}
    return replay({**sides, "roles": ROLES, "seeds": [], "kept": [], **more}, at)


def test_two_sides_that_do_the_same() -> None:
    assert tried(CLIP, CLIP) == Answer(4)


def test_each_run_is_told() -> None:
    at: list[str] = []
    tried(CLIP, CLIP, at=at.append)
    assert at[:3] == ["gradients [3, 4], before", "gradients [3, 4], after", "gradients [3, 4] in float64, before"]
    assert len(at) == 12


def test_the_first_case_that_fails_ends_it() -> None:
    assert tried(CLIP, f"2 * {CLIP}") == Answer(
        1, (), "gradients [3, 4]", "differs by 1", "the value = tensor(5)", "the value = tensor(10)"
    )


def test_what_the_old_side_gets_wrong_is_noted() -> None:
    squares = "builtins__float(torch__sqrt(torch__stack([(p.grad ** 2).sum() for p in ps__call()]).sum()))"
    found = tried(squares, "builtins__float(clipcheck__runtime__grad_norm(ps__call()))")
    assert found == Answer(4, ("overflow with huge gradients", "RuntimeError with no parameters"))


def test_what_is_different_but_tolerated_is_noted_apart() -> None:
    found = tried(CLIP, f"{CLIP}.item()", norm=True)
    assert found == Answer(4, why="`the value` is a float instead of a tensor in every case")
    assert tried(CLIP, f"{CLIP}.item()").why == "a torch.Tensor became a float"


def test_what_raises_with_every_gradient_is_not_compared() -> None:
    nothing = "so nothing was compared"
    assert tried(RAISES, CLIP, norm=False) == Answer(
        4,
        ("AttributeError in every case",),
        "every case",
        f"it raises AttributeError wherever there is a gradient, {nothing}",
    )
    assert (
        tried(RAISES, "1 / 0").why
        == f"it raises AttributeError or ZeroDivisionError wherever there is a gradient, {nothing}"
    )
    only_without = "[1 / builtins__float(p.grad is None) for p in ps__call()]"
    assert tried(only_without, only_without).refuted == "every case"


def test_where_the_old_side_raises_the_right_norm_is_enough() -> None:
    norm = "clipcheck__runtime__grad_norm(ps__call())"
    assert tried(RAISES, norm, norm=True) == Answer(4, ("AttributeError in every case",))
    assert tried(RAISES, norm, reference=norm) == Answer(4, ("AttributeError in every case",))
    assert tried(RAISES, f"2 * {norm}", norm=True).refuted == "every case"


def test_a_result_other_than_a_norm_is_excused_in_an_unsafe_fix_only() -> None:
    norm = "clipcheck__runtime__grad_norm(ps__call())"
    found = tried(f"2 * {norm}", norm, norm=True)
    assert found.refuted == "" and found.exceptions[0].startswith("a result that is not a norm with gradients [3, 4]")
    assert tried(f"2 * {norm}", norm).refuted == "gradients [3, 4]"


def test_names_that_are_read_later_are_compared() -> None:
    def of(before: str, after: str, *kept: str) -> Answer:
        sides = {
            name: side(value, "total", "total")
            for name, value in (("before", before), ("after", after), ("reference", before))
        }
        return replay({**sides, "roles": ROLES, "seeds": ["total"], "kept": [*kept]}, lambda case: None)

    assert of("total + 1", "total + 1", "total") == Answer(4)
    assert of("total + 1", "total + 2", "total")[2:] == (
        "gradients [3, 4]",
        "differs by 0.29",
        "total = 3.5",
        "total = 4.5",
    )
    assert of("total + 1", "total + 2") == Answer(4)  # nobody reads it


def test_a_side_that_is_less_accurate_is_refuted_in_the_end() -> None:
    off = f"{CLIP} * (1 + 4e-6)"
    found = tried(CLIP, off)
    assert found[2:4] == ("all cases", "further from float64 in float32")
    assert tried(off, CLIP, reference=CLIP) == Answer(4)
