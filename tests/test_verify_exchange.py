"""One function replaced by another in a call, a string or an import: both are compared, and a wrong one is refuted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clipcheck.rule import Edit, Fix, Safety, Verdict
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.exchange import exchanges
from clipcheck.verify.sites import Verifier

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

HEAD = "import torch\nfrom unittest import mock\nfrom clipcheck import runtime\nfrom torch.nn import utils\n\n\n"


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def change(code: str, new: str, safety: Safety = Safety.SAFE) -> Change:
    """The fix that replaces the text between `«` and `»` in a program by `new`."""
    text = HEAD + code
    start, end = text.index("«"), text.index("»") - 1
    text = text.replace("«", "").replace("»", "")
    return Change(text, Fix("Change", safety, (Edit(start, end, new),)))


def tried(verify: Verifier, code: str, new: str, safety: Safety = Safety.SAFE) -> Verdict:
    asked = change(code, new, safety)
    return verify(asked.text, asked.fix)


CALLS = {
    "a limit that is a string": "«utils.clip_grad_norm_»(model.parameters(), 'none')\n",
    "no limit": "«utils.clip_grad_norm_»(model.parameters(), max_norm=None)\n",
    "a norm type that is a string": "«utils.clip_grad_norm_»(model.parameters(), 1.0, norm_type='l2')\n",
    "what a dictionary holds": "norm = «utils.clip_grad_norm_»(self.trained, config['clip'], 2.0, foreach=fast)\n",
    "an infinity": "«utils.clip_grad_norm_»(every, args['clip'], torch.inf)\n",
    "a name of unknown origin": "«utils.clip_grad_norm_»(every, args.clip, error_if_nonfinite=strict)\n",
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_stay_as_they_are_may_be_any(verify: Verifier, name: str) -> None:
    found = tried(verify, CALLS[name], "runtime.clip_grad_norm_")
    assert found.kind == "verified" and found.cases >= 30, found


# Functions that take the same arguments and do something else, or not the same arguments.
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("other", ["utils.clip_grad_value_", "runtime.grad_norm", "utils.get_total_norm", "torch.norm"])
def test_another_function_is_not_verified(verify: Verifier, name: str, other: str) -> None:
    assert tried(verify, CALLS[name], other).kind != "verified"


def test_a_function_that_does_something_else_is_refuted(verify: Verifier) -> None:
    """Both take parameters and a number, so both run: one clips by norm, the other by value."""
    code = "«utils.clip_grad_norm_»(self.trained, config['clip'])\n"
    asked = change(code, "utils.clip_grad_value_")
    (experiment,) = exchanges(change(code, "runtime.clip_grad_norm_"))
    value = "torch.nn.utils.clip_grad_value_"
    after = experiment.after._replace(
        code=experiment.after.code.replace("clipcheck__runtime__clip_grad_norm_", "torch__nn__utils__clip_grad_value_"),
        names={"torch__nn__utils__clip_grad_value_": value},
    )
    assert verify._try(experiment._replace(after=after)).kind == "refuted"
    with pytest.raises(NotVerifiable):
        exchanges(asked)


MORE = {
    "nothing": ("«utils.clip_grad_norm_»(model.parameters(), limit)\n", "utils.clip_grad_norm_"),
    "an argument": (
        "«utils.clip_grad_norm_(self.trained, limit)»\n",
        "runtime.clip_grad_norm_(self.trained, 2 * limit)",
    ),
    "what is handed over": (
        "«utils.clip_grad_norm_(self.trained, limit)»\n",
        "runtime.clip_grad_norm_(self.others, limit)",
    ),
    "a method": ("«model.clip_grad_norm_»(limit)\n", "runtime.clip_grad_norm_"),
    "an argument that calls something": (
        "«utils.clip_grad_norm_»(self.trained, limits.pop())\n",
        "runtime.clip_grad_norm_",
    ),
    "an argument that is a function": (
        "«utils.clip_grad_norm_»(self.trained, (lambda: 1.0))\n",
        "runtime.clip_grad_norm_",
    ),
    "an argument of Python's own": ("«utils.clip_grad_norm_»(self.trained, a.__dict__)\n", "runtime.clip_grad_norm_"),
    "what a module holds": (
        "«utils.clip_grad_norm_»(self.trained, torch.os.environ['x'])\n",
        "runtime.clip_grad_norm_",
    ),
    "arguments in a list": ("«utils.clip_grad_norm_»(*given)\n", "runtime.clip_grad_norm_"),
    "a function that is not listed": ("«torch.save»(model, limit)\n", "runtime.clip_grad_norm_"),
}


@pytest.mark.parametrize("name", MORE)
def test_fixes_that_change_more_than_the_function(name: str) -> None:
    with pytest.raises(NotVerifiable):
        exchanges(change(*MORE[name]))


@pytest.mark.parametrize(
    "limit",
    [
        *(
            "a",
            "a.b",
            "a['k']",
            "a[0]",
            "-a",
            "not a",
            "1.0",
            "a or b",
            "a and b",
            "a if b else c",
            "a if b > c else d",
        ),
        *("float(a)", "float('inf')", "a.get('k')", "a.get('k', 1.0)", "torch.inf"),
    ],
)
def test_an_argument_may_be_whatever_only_reads_a_value(limit: str) -> None:
    for call in (f"(model.parameters(), {limit})", f"(ps, max_norm={limit})", f"({limit}, 1.0)"):
        assert len(exchanges(change(f"«utils.clip_grad_norm_»{call}\n", "runtime.clip_grad_norm_"))) == 1


@pytest.mark.parametrize(
    "limit",
    ["a + 1", "a.pop()", "f(a)", "a.get(k=1)", "a.get(f())", "a.get(b + c)", "(a := 1)", "[a]", "__file__", "a.__b", "utils.x"],
)  # fmt: skip
def test_an_argument_that_may_do_more_is_not_tried(limit: str) -> None:
    with pytest.raises(NotVerifiable, match="cannot be resolved"):
        exchanges(change(f"«utils.clip_grad_norm_»(ps, {limit})\n", "runtime.clip_grad_norm_"))


RAISES = {
    "a keyword that neither has": ("«utils.clip_grad_norm_»(model.parameters(), clip_value=1.0)\n", "`clip_value`"),
    "too many arguments": ("«utils.clip_grad_norm_»(m.parameters(), 1.0, 2.0, True, True, 1)\n", "so many arguments"),
    "no limit": ("«utils.clip_grad_norm_»(model.parameters())\n", "no `max_norm`"),
}


@pytest.mark.parametrize("name", RAISES)
def test_a_call_that_raises_says_so(name: str) -> None:
    code, reason = RAISES[name]
    with pytest.raises(NotVerifiable, match="the call raises TypeError") as caught:
        exchanges(change(code, "runtime.clip_grad_norm_"))
    assert reason in str(caught.value)


# --- strings and imports --------------------------------------------------------------------------------------------

STRINGS = {
    "a path": "with mock.patch('torch.nn.utils.«clip_grad_norm»') as clip:\n    train()\n",
    "an attribute": "clip = getattr(torch.nn.utils, '«clip_grad_norm»')\n",
    "an attribute that is replaced": "mock.patch.object(utils, '«clip_grad_norm»')\n",
}


@pytest.mark.parametrize("name", STRINGS)
def test_a_name_in_a_string_is_that_of_the_same_function(verify: Verifier, name: str) -> None:
    found = tried(verify, STRINGS[name], "clip_grad_norm_")
    assert found.kind == "verified" and found.cases >= 30, found


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("other", ["clip_grad_value_", "get_total_norm", "clip_grad", "clip_grad_norm", "rnn"])
def test_a_name_in_a_string_of_another_function_is_not_verified(verify: Verifier, name: str, other: str) -> None:
    assert tried(verify, STRINGS[name], other).kind != "verified"


def test_a_string_that_names_no_function_is_not_tried() -> None:
    with pytest.raises(NotVerifiable, match="names no clip"):
        exchanges(change("print('«clip_grad_norm»')\n", "clip_grad_norm_"))


@pytest.mark.parametrize(
    ("code", "new", "why"),
    [
        ("from torch.nn.utils import «clip_grad_norm»\n", "get_total_norm as clip_grad_norm", "`get_total_norm` takes other arguments than `clip_grad_norm`"),
        ("mock.patch.object(utils, '«clip_grad_norm»')\n", "get_total_norm", "`get_total_norm` takes other arguments than `clip_grad_norm`"),
        ("mock.patch.object(utils, '«clip_grad_norm»')\n", "clip' + name + '", "its string names no clip or norm"),
        ("mock.patch.object(utils, '«clip_grad_norm»')\n", "clip\\", "its string names no clip or norm"),
        ("mock.patch.object(utils, 'clip_grad«»_norm')\n", "", "its string names the same function as before"),
        ("from torch.nn.utils import «clip_grad_norm»\n", "rnn as clip_grad_norm", "the import of `clip_grad_norm` becomes another one"),
        ("import torch«»\n", ", sys", "only imports change, and not those of a clip"),
        ("«utils.clip_grad_norm_»(self.trained, limit)\n", "utils.clip_grad_norm_ ", "it does not only exchange the function that is called"),
        ("«utils.clip_grad_norm_»(self.trained, (lambda: 1.0))\n", "runtime.clip_grad_norm_", "`lambda: 1.0` cannot be resolved"),
        ("«utils.clip_grad_norm_»(*given)\n", "runtime.clip_grad_norm_", "its arguments are in a list or a dictionary"),
        ("«torch.save»(model, limit)\n", "runtime.clip_grad_norm_", "it is no call of a clip or a norm"),
    ],
)  # fmt: skip
def test_why_two_functions_are_not_compared(code: str, new: str, why: str) -> None:
    with pytest.raises(NotVerifiable) as caught:
        exchanges(change(code, new))
    assert str(caught.value) == why


def test_an_infinity_is_the_same_wherever_it_comes_from(verify: Verifier) -> None:
    code = "«from torch._six import inf  # where it was\n»\nprint(inf)\n"
    assert tried(verify, code, "from math import inf\n").kind == "verified"
    assert tried(verify, code, "from math import pi as inf\n").kind != "verified"
