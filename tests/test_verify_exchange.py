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


# --- what is compared, without running it -----------------------------------------------------------------------------

GIVEN = {
    "(model.parameters(), 1.0)": ("parameters__own__call(), max_norm__own__name", "parameters max_norm"),
    "(ps, max_norm=c)": ("parameters__own__call(), max_norm=max_norm__own__name", "parameters max_norm"),
    "(max_norm=c, parameters=ps)": ("max_norm=max_norm__own__name, parameters=parameters__own__call()", "parameters max_norm"),
    "(ps, c, 1)": ("parameters__own__call(), max_norm__own__name, 1", "parameters max_norm"),
    "(ps, c, norm_type=1.5)": ("parameters__own__call(), max_norm__own__name, norm_type=1.5", "parameters max_norm"),
    "(ps, c, p)": ("parameters__own__call(), max_norm__own__name, norm_type__own__name", "parameters max_norm norm_type"),
    "(ps, c, 'inf')": ("parameters__own__call(), max_norm__own__name, norm_type__own__name", "parameters max_norm norm_type"),
    "(ps, c, foreach=None)": ("parameters__own__call(), max_norm__own__name, foreach=None", "parameters max_norm"),
    "(ps, c, error_if_nonfinite=True)": ("parameters__own__call(), max_norm__own__name, error_if_nonfinite=True", "parameters max_norm"),
    "(ps, c, error_if_nonfinite=a, foreach=b)": (
        "parameters__own__call(), max_norm__own__name, error_if_nonfinite=switch__own__name, foreach=switch__own__name",
        "parameters max_norm switch",
    ),
}  # fmt: skip
OLD, NEW = "torch.nn.utils.clip_grad_norm_", "clipcheck.runtime.clip_grad_norm_"


def called(path: str, given: str) -> tuple[str, dict[str, str]]:
    name = path.replace(".", "__")
    return f"def site():\n    return ('value', {name}({given}))", {name: path}


@pytest.mark.parametrize("arguments", GIVEN)
def test_both_functions_get_arguments_of_the_harness(arguments: str) -> None:
    given, roles = GIVEN[arguments]
    (found,) = exchanges(change(f"«utils.clip_grad_norm_»{arguments}\n", "runtime.clip_grad_norm_"))
    assert (found.before, found.after, found.reference) == (called(OLD, given), called(NEW, given), called(OLD, given))
    assert set(found.roles.values()) == set(roles.split())
    assert all(name.startswith(f"{role}__own__") for name, role in found.roles.items())
    assert (found.seeds, found.kept, found.norm) == ((), (), False)


ORDINARY = [
    ("from torch.nn.utils import «clip_grad_norm»\n", "clip_grad_norm_ as clip_grad_norm", "torch.nn.utils.clip_grad_norm", OLD, "parameters__own__call(), max_norm__own__name"),
    ("from torch.nn.utils import «clip_grad_norm_»\n", "clip_grads_with_norm_ as clip_grad_norm_", None, None, "`clip_grads_with_norm_` takes other arguments than `clip_grad_norm_`"),
    ("«from torch.nn.utils import get_total_norm»\n", "from clipcheck.runtime import get_total_norm", "torch.nn.utils.get_total_norm", "clipcheck.runtime.get_total_norm", "gradients__own__call()"),
    (
        "«from torch.nn.utils import clip_grads_with_norm_»\n",
        "from clipcheck.runtime import clip_grads_with_norm_",
        "torch.nn.utils.clip_grads_with_norm_",
        "clipcheck.runtime.clip_grads_with_norm_",
        "parameters__own__call(), max_norm__own__name, total__own__name",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "new", "old_path", "new_path", "given"), ORDINARY)
def test_functions_that_are_imported_get_what_they_need(
    code: str, new: str, old_path: str | None, new_path: str | None, given: str
) -> None:
    if old_path is None or new_path is None:
        with pytest.raises(NotVerifiable) as caught:
            exchanges(change(code, new))
        assert str(caught.value) == given
        return
    (found,) = exchanges(change(code, new))
    assert (found.before, found.after) == (called(old_path, given), called(new_path, given))


def test_a_name_with_two_imports_is_not_tried() -> None:
    code = "try:\n    from torch.nn.utils import «clip_grad_norm_»\nexcept ImportError:\n    from lab import clip_grad_norm_\n"
    with pytest.raises(NotVerifiable, match="the import of `clip_grad_norm_` becomes another one"):
        exchanges(change(code, "clip_grad_norm as clip_grad_norm_"))


def test_an_import_that_a_fix_removes_is_not_compared() -> None:
    code = "from torch.nn.utils import «clip_grad_norm, clip_grad_value_»\n"
    (found,) = exchanges(change(code, "clip_grad_norm_ as clip_grad_norm"))
    assert found.after.names == {OLD.replace(".", "__"): OLD}


def test_an_infinity_is_compared_with_that_of_python() -> None:
    code = "«from torch._six import inf\n»\nprint(inf)\n"
    (found,) = exchanges(change(code, "from math import inf\n"))
    assert found.before == (
        "def site():\n    return ('value', torch___six__inf)",
        {"torch___six__inf": "torch._six.inf"},
    )
    assert found.after == found.reference == ("def site():\n    return ('value', math__inf)", {"math__inf": "math.inf"})
    assert found.roles == {}


@pytest.mark.parametrize("argument", ["a.parameters()", "b.parameters()", "float(b)", "b.get('k')"])
def test_what_reads_a_value_is_called_like_that(argument: str) -> None:
    """A function of the same kind but with keywords may do more."""
    exchanges(change(f"«utils.clip_grad_norm_»({argument}, 1.0)\n", "runtime.clip_grad_norm_"))
    more = argument.replace(")", ", k=1)").replace("(, ", "(")
    with pytest.raises(NotVerifiable, match="cannot be resolved"):
        exchanges(change(f"«utils.clip_grad_norm_»({more}, 1.0)\n", "runtime.clip_grad_norm_"))


def test_a_long_argument_is_named_by_its_start() -> None:
    long = f"f({'a' * 70})"
    with pytest.raises(NotVerifiable) as caught:
        exchanges(change(f"«utils.clip_grad_norm_»(ps, {long})\n", "runtime.clip_grad_norm_"))
    assert str(caught.value) == f"`{long[:60]}` cannot be resolved"


@pytest.mark.parametrize("name", STRINGS)
def test_functions_that_a_string_names_are_compared(name: str) -> None:
    (found,) = exchanges(change(STRINGS[name], "clip_grad_norm_"))
    given = "parameters__own__call(), max_norm__own__name"
    assert found.before == found.reference == called("torch.nn.utils.clip_grad_norm", given)
    assert found.after == called(OLD, given)
    assert found.roles == {"parameters__own__call": "parameters", "max_norm__own__name": "max_norm"}


def test_an_argument_is_not_what_another_function_imports() -> None:
    elsewhere = "def other():\n    from lab import limit\n    print(limit)\n\n\n"
    call = "def step(ps, limit):\n    «utils.clip_grad_norm_»(ps, limit)\n"
    assert len(exchanges(change(elsewhere + call, "runtime.clip_grad_norm_"))) == 1
    here = call.replace("(ps, limit):\n", "(ps):\n    from lab import limit\n\n")
    with pytest.raises(NotVerifiable, match="`limit` cannot be resolved"):
        exchanges(change(elsewhere + here, "runtime.clip_grad_norm_"))
