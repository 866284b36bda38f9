"""The runtime's small parts: what a caller is told, which sections are exchanged over which groups, the plain twin."""

from __future__ import annotations

import math
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402

from clipcheck.runtime import (  # noqa: E402
    clip,
    culprits,
    dtensors,
    gradients,
    load,
    local,
    looks,
    plain,
    reference,
    sixteen,
)

CPU = torch.device("cpu")


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


# --- what a caller passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "advice"),
    [
        (nn.Linear(1, 1), "a module: pass `module.parameters()`"),
        (torch.optim.SGD([nn.Parameter(vector(1.0))], lr=1), "an optimizer: pass the parameters of its `param_groups`"),
        (("weight", vector(1.0)), "`named_parameters()`: pass `parameters()`"),
        ({"params": []}, '`param_groups`: pass `[p for group in param_groups for p in group["params"]]`'),
        ("weight", "names, as of a `state_dict()`: pass the tensors"),
        (None, "None among the tensors: leave it out"),
        (len, "a function: call it, as in `model.parameters()`"),
        (3, "`int`"),
        ((1, 2), "`tuple`"),
    ],
)
def test_an_item_that_is_not_a_tensor_is_named_for_what_it_is(item: object, advice: str) -> None:
    with pytest.raises(TypeError) as caught:
        gradients.reject(item, "parameters")
    assert str(caught.value) == f"`parameters` must be a tensor or an iterable of tensors, got {advice}"


def test_an_iterator_is_read_once_and_an_empty_one_is_told() -> None:
    one = vector(1.0)
    assert gradients.listed(one) == [one]
    assert gradients.listed([one]) == gradients.listed(iter([one])) == [one]
    assert gradients.listed([]) == gradients.listed(()) == []
    with pytest.warns(UserWarning, match="`tensors` is an empty iterator, nothing will be clipped or measured"):
        assert gradients.listed(iter([]), "tensors") == []
    with pytest.raises(TypeError, match="`tensors` must be"):
        gradients.listed(3, "tensors")  # type: ignore[arg-type]


def test_a_parameter_that_is_listed_twice_counts_once() -> None:
    first, second = nn.Parameter(vector(1.0)), nn.Parameter(vector(2.0))
    with pytest.warns(UserWarning, match="lists a parameter more than once, it is counted once"):
        found = gradients.parameters_of([first, second, first])
    assert [id(p) for p in found] == [id(first), id(second)]


@pytest.mark.filterwarnings("error")
def test_gradients_in_the_place_of_parameters_are_told() -> None:
    with pytest.warns(UserWarning, match="no tensor in `parameters` can hold a gradient"):
        assert gradients.gradients([vector(1.0)]) == [None]
    held = nn.Parameter(vector(1.0))
    held.grad = vector(2.0)
    assert gradients.gradients([held, vector(1.0)])[1] is None  # one is enough
    assert gradients.gradients([nn.Parameter(vector(1.0)), vector(1.0)]) == [None, None]
    assert gradients.gradients([torch.zeros(1, requires_grad=True)]) == [None]
    assert gradients.gradients([]) == []


def test_gradients_may_be_elsewhere() -> None:
    first, second = nn.Parameter(vector(1.0)), nn.Parameter(vector(2.0))
    first.main_grad = vector(3.0)  # type: ignore[attr-defined]
    assert gradients.gradients([first, second], "main_grad") == [first.main_grad, None]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no parameter has the attribute 'other' that `gradient` names"):
        gradients.gradients([first], "other")
    assert gradients.gradients([], "other") == []
    with pytest.raises(TypeError, match="`gradient` must give a tensor or None for a parameter, got `int`"):
        gradients.gradients([first], lambda p: 3)  # type: ignore[arg-type,return-value]


def test_copies_of_gradients_are_refused() -> None:
    first, empty = nn.Parameter(vector(1.0)), nn.Parameter(torch.zeros(0))
    first.grad, empty.grad = vector(3.0), torch.zeros(0)
    params = [empty, first]

    def asked(gradient: Any) -> None:
        gradients.refuse_copies(params, [gradient(p) if callable(gradient) else p.grad for p in params], gradient)

    asked(None)
    asked("grad")
    asked(lambda p: p.grad)
    asked(lambda p: p.grad.view(-1))  # another tensor in the same place
    with pytest.raises(ValueError, match="this is a copy"):
        asked(lambda p: p.grad.clone())
    answers = iter([empty.grad, first.grad, None])
    with pytest.raises(ValueError, match="this is a copy"):
        asked(lambda p: next(answers))


@pytest.mark.parametrize("coalesced", [True, False])
def test_a_sparse_gradient_is_measured_coalesced_and_scaled_as_it_is(coalesced: bool) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1, 2]]), vector(1.0, 2.0, 4.0), (4,))
    grad = sparse.coalesce() if coalesced else sparse
    assert gradients.values(grad).tolist() == [3.0, 4.0]
    assert gradients.stored(grad).tolist() == ([3.0, 4.0] if coalesced else [1.0, 2.0, 4.0])
    dense = vector(1.0)
    assert gradients.values(dense) is gradients.stored(dense) is dense
    rows_ = torch.eye(2).to_sparse_csr()
    assert gradients.values(rows_).tolist() == gradients.stored(rows_).tolist() == [1.0, 1.0]
    assert gradients.ordinary([dense]) and not gradients.ordinary([dense, grad])


# --- who made a norm infinite -----------------------------------------------------------------------------------------------------


def test_culprits_are_named() -> None:
    bad, worse = vector(1.0, math.inf), vector(math.nan)
    params = [torch.zeros_like(g) for g in (bad, vector(1.0), worse, bad, worse)]
    grads = [bad, vector(1.0), worse, bad, worse]
    assert culprits.culprits(params[:2], grads[:2], None) == (
        "1 of 2 gradients are not finite: number 0, counted from 0, of shape (2,) (infinite)"
    )
    assert culprits.culprits(params[:3], [None, *grads[1:3]], [("head", params[2])]) == (
        "1 of 2 gradients are not finite: head (NaN)"
    )
    named = [(f"p{n}", p) for n, p in enumerate(params)]
    assert culprits.culprits(params, grads, named) == (
        "4 of 5 gradients are not finite: p0 (infinite), p2 (NaN), p3 (infinite) and 1 more"
    )
    assert culprits.culprits(params[:4], grads[:4], named).endswith("p3 (infinite)")
    assert culprits.culprits(params[1:2], grads[1:2], None) == (
        "all gradients of this process are finite, those of another or the norm itself are not"
    )


# --- the plain twins ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grads", "order", "norm"),
    [
        ([], 2.0, 0.0),
        ([torch.zeros(0)], 2.0, 0.0),
        ([vector(3.0), vector(4.0)], 2.0, 5.0),
        ([vector(-3.0), vector(4.0)], 1.0, 7.0),
        ([vector(-3.0), vector(2.0)], math.inf, 3.0),
        ([vector(-3.0), vector(2.0)], -math.inf, 2.0),
        ([vector(0.0)], 2.0, 0.0),
        ([vector(1e30, 1e30)], 3.0, 2 ** (1 / 3) * 1e30),
        ([vector(math.inf, 1.0)], 2.0, math.inf),
        ([vector(0.0, 0.0), vector(0.0, 3.0)], 0.0, 1.0),
        ([], 0.0, 0.0),
    ],
)
def test_the_plain_norm(grads: list[torch.Tensor], order: float, norm: float) -> None:
    assert reference.total_norm(grads, order) == pytest.approx(norm)
    if grads and order:
        assert float(plain.norm(grads, order)) == pytest.approx(norm)
        assert plain.norm(grads, order).dim() == 0


def test_nan_stays_nan_in_the_plain_twins() -> None:
    grads = [vector(math.nan, 1.0)]
    for order in (1.0, 2.0, 3.0, math.inf):
        assert math.isnan(reference.total_norm(grads, order))
        assert math.isnan(float(plain.norm(grads, order)))
    (clipped,) = reference.clipped(grads, 1.0)
    assert clipped.isnan().all()


@pytest.mark.parametrize(("norm", "coefficient"), [(0.5, 1.0), (1.0 - 1e-6, 1.0), (2.0, 1 / 2.000001), (0.0, 1.0)])
def test_the_coefficient_of_a_clip(norm: float, coefficient: float) -> None:
    assert reference.coefficient(norm, 1.0) == pytest.approx(coefficient)
    assert float(plain.coefficient(torch.tensor(norm, dtype=torch.float64), 1.0)) == pytest.approx(coefficient)
    assert reference.coefficient(norm, 1.0) <= 1.0


def test_gradients_that_are_not_clipped_are_the_same() -> None:
    given = [vector(3.0), vector(4.0)]
    same = reference.clipped(iter(given), 10.0)
    assert [g.item() for g in same] == [3.0, 4.0] and {g.dtype for g in same} == {torch.float64}
    half = reference.clipped(given, 2.5)
    assert [g.item() for g in half] == pytest.approx([1.5, 2.0], rel=1e-6)
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), vector(3.0, 1.0), (2,))
    assert reference.clipped([sparse], 100.0)[0].tolist() == [0.0, 4.0]
    assert reference.clipped([torch.tensor([3 + 4j])], 100.0)[0].dtype is torch.complex128


def test_gradients_of_all_dtypes_and_orders_by_the_plain_twin() -> None:
    grads = [vector(3.0), vector(4.0).double(), vector(12.0).bfloat16(), torch.tensor([0j])]
    for order in (1.0, 2.0, 3.0, 9.0, -9.0, math.inf):
        assert float(plain.norm(grads, order)) == pytest.approx(reference.total_norm(grads, order))
    with pytest.raises(RuntimeError, match="gradients must be floating point or complex"):
        plain.norm([torch.tensor([1])], 2.0)
    plain.scale_(grads, torch.tensor(0.5, dtype=torch.float64))
    assert [complex(g.item()) for g in grads] == [1.5, 2.0, 6.0, 0.0]
    assert {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32,
            torch.complex128: torch.float64, torch.complex64: torch.float32} == {
        dtype: plain.factor_dtype(dtype)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex128, torch.complex64)
    }  # fmt: skip


# --- whether gradients look alike -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
def test_gradients_that_look_alike(guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the guards of torch.compile, or in Python where a version of torch has none."""
    if not guarded:
        monkeypatch.setitem(sys.modules, "torch._C._dynamo.guards", None)
    numbers = torch.arange(64, dtype=torch.float32)
    of_complex = numbers.view(torch.complex64)
    kinds = [
        numbers[:16],
        numbers[:17],
        numbers[:16].view(4, 4),
        numbers[:16].view(4, 4).t(),
        numbers[:32:2],
        numbers.double()[:16],
        of_complex[:16],
        of_complex[:16].conj(),
        of_complex[:16].conj().imag,
        nn.Parameter(numbers[:16]),
    ]
    kinds += [] if guarded else [numbers[:16].to_sparse(), numbers[:17].to_sparse()]
    other = torch.ones(3)
    for kind in kinds:
        looks_alike = looks.look([other, kind])
        assert [looks_alike(other, each) for each in kinds] == [each is kind for each in kinds]
    looks_alike = looks.look([other, torch.zeros(3)])
    assert looks_alike(torch.zeros(3), other) and not looks_alike(other, other)


# --- whether cores are free -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cores", "threads", "expected"),
    [
        (b"0.10 0.20 0.30 3/700 12345\n", 2, 2, True),
        (b"0.10 0.20 0.30 2/700 12345\n", 2, 2, False),
        (b"9.10 9.20 9.30 1/700 12345\n", 2, 2, False),
        (b"0.10 0.20 0.30 3/700 12345\n", 2, 1, False),  # there is nothing to wait for
        (b"0.10 0.20 0.30 2/700 12345\n", None, 2, True),
    ],
)
def test_one_thread_is_better_where_others_want_the_cores(
    line: bytes, cores: int | None, threads: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def pread(file: int, size: int, offset: int) -> bytes:
        asked.append((file, size, offset))
        return line

    monkeypatch.setattr(load, "_running", lambda: 7)
    monkeypatch.setattr(load.os, "pread", pread)
    monkeypatch.setattr(load.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(load.torch, "get_num_threads", lambda: threads)
    assert load.is_serial_better() is expected
    assert asked == [(7, 64, 0)] * (threads > 1)
    monkeypatch.setattr(load, "_running", lambda: None)
    assert load.is_serial_better() is False


# --- sections ---------------------------------------------------------------------------------------------------------------------------


class Group:
    """A process group of so many ranks, as far as sections ask."""

    def __init__(self, name: str, size: int = 2) -> None:
        self.name, self._size = name, size

    def size(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return self.name


needs_groups = pytest.mark.skipif(not dist.is_available(), reason="torch has no process groups here")


@needs_groups
def test_sections_in_the_order_in_which_they_are_met() -> None:
    from clipcheck.runtime import spread

    a, b = Group("a"), Group("b")
    shards: Any = [(a,), (b,), (a, b), (a,), ()]
    assert spread._sections_met(shards) == ([0, 1, 2, 0, 3], [(a, [0, 2]), (b, [1, 2])])
    assert spread._sections_met([]) == ([], [])


@needs_groups
def test_a_section_for_each_subset_of_all_groups() -> None:
    from clipcheck.runtime import spread

    a, b, single = Group("a"), Group("b", 4), Group("single", 1)
    shards: Any = [(a,), (), (a, b), (b,), (a, a)]
    groups: Any = (a, b)
    assert spread._sections_of_all(shards, groups) == ([1, 0, 3, 2, 1], [(a, [1, 3]), (b, [2, 3])])
    groups = (a, None, b, single)  # of one this rank is not a member, another holds it alone
    assert spread._sections_of_all([(b,)], groups) == (  # type: ignore[list-item]
        [4],
        [(a, [1, 3, 5, 7, 9, 11, 13, 15]), (b, [4, 5, 6, 7, 12, 13, 14, 15])],
    )
    with pytest.raises(ValueError, match="a parameter is spread over the process group b, which `all_groups` lacks"):
        spread._sections_of_all([(b,)], (a,))  # type: ignore[list-item,arg-type]
    spread._sections_of_all([], (a,) * 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`all_groups` may hold up to 8 groups, got 9"):
        spread._sections_of_all([], (a,) * 9)  # type: ignore[arg-type]


@needs_groups
@pytest.mark.parametrize(
    ("sections", "runs"),
    [([], []), ([0], [(0, 1)]), ([0, 1, 2], [(0, 3)]), ([1, 3], [(1, 2), (3, 4)]), ([0, 1, 4, 5, 7], [(0, 2), (4, 6), (7, 8)])],
)  # fmt: skip
def test_sections_as_slices(sections: list[int], runs: list[tuple[int, int]]) -> None:
    from clipcheck.runtime import spread

    assert [(run.start, run.stop) for run in spread._runs(sections)] == runs


@needs_groups
def test_what_is_no_group_is_told() -> None:
    from clipcheck.runtime import spread

    for given, kind in ((3, "int"), ("group", "str"), ([3], "int")):
        with pytest.raises(
            TypeError, match=f"expected a process group, a device mesh or several of them, got `{kind}`"
        ):
            list(spread._each(given))
    assert list(spread._each(None)) == []
    assert list(spread._each(dist.GroupMember.NON_GROUP_MEMBER)) == [None]


@needs_groups
def test_the_norm_of_sections() -> None:
    from clipcheck.runtime import exchange

    norms = torch.tensor([3.0, 4.0], dtype=torch.float64)
    for order, norm in ((1.0, 7.0), (2.0, 5.0), (math.inf, 4.0)):
        assert exchange.norm_of(exchange.sums_of(norms.clone(), order), order).item() == norm
    assert exchange.sums_of(-norms, math.inf).tolist() == [3.0, 4.0]


class Backend:
    """A process group whose backends reduce tensors of these kinds of devices."""

    def __init__(self, *kinds: str) -> None:
        self._device_types = [torch.device(kind) for kind in kinds]


@needs_groups
@pytest.mark.parametrize(
    ("kinds", "device", "expected"),
    [
        ((), "cpu", "cpu"),  # a group that does not say
        ((), "cuda:1", "cuda:1"),
        (("cpu",), "cpu", "cpu"),
        (("cpu",), "cuda:1", "cpu"),
        (("cuda",), "cuda:1", "cuda:1"),
        (("cuda",), "cpu", "cuda:2"),  # offloaded gradients
        (("cuda", "cpu"), "cpu", "cpu"),
    ],
)
def test_numbers_are_sent_from_a_device_that_the_group_supports(
    kinds: tuple[str, ...], device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcheck.runtime import exchange

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    group: Any = Backend(*kinds)
    assert exchange._device_for(group, torch.device(device)) == torch.device(expected)


@needs_groups
@pytest.mark.parametrize(
    ("groups", "used", "expected"),
    [
        ([], True, "cpu"),
        ([("cpu",)], True, "cpu"),
        ([("cuda",)], False, "cpu"),
        ([("cuda",)], True, "cuda:2"),
        ([("cpu",), ("cpu", "cuda")], True, "cuda:2"),
    ],
)
def test_a_rank_that_holds_nothing_sends_from_the_device_that_others_probably_use(
    groups: list[tuple[str, ...]], used: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcheck.runtime import exchange

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    how: Any = SimpleNamespace(every_group=[Backend(*kinds) for kinds in groups])
    assert exchange.device_of_nothing(how) == torch.device(expected)


# --- parts of distributed tensors -----------------------------------------------------------------------------------------------------


class Replicate:
    def is_partial(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Replicate)

    def __hash__(self) -> int:
        return 0


class Partial(Replicate):
    def is_partial(self) -> bool:
        return True


@pytest.fixture
def distributed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of distributed tensors as far as it is asked for, and what was made with it."""
    made: list[Any] = []

    class DTensor:
        @staticmethod
        def from_local(*given: Any, **how: Any) -> str:
            made.append((given, how))
            return "made"

    module = SimpleNamespace(DTensor=DTensor, Replicate=Replicate)
    monkeypatch.setattr(dtensors, "_module", lambda: module)
    return made


def test_a_replicated_norm_is_made_without_sending_anything(distributed: Any) -> None:
    norm, mesh = vector(5.0), SimpleNamespace(ndim=2)
    assert dtensors.replicated(norm, mesh) == "made"
    assert distributed == [((norm, mesh, [Replicate(), Replicate()]), {"run_check": False})]


def test_partial_sums_do_not_count_as_they_are(distributed: Any) -> None:
    placements = (Partial(), Replicate())
    wanted = dtensors.wanted(SimpleNamespace(placements=placements))
    assert [type(placement) for placement in wanted] == [Replicate, Replicate]


def test_a_part_that_is_on_its_way_is_waited_for() -> None:
    class Asynchronous:
        def wait(self) -> str:
            return "arrived"

    assert dtensors._memory(SimpleNamespace(_local_tensor=Asynchronous())) == "arrived"
    one = vector(1.0)
    assert dtensors._memory(SimpleNamespace(_local_tensor=one)) is one
    assert dtensors.local_storage(one) is one
    assert dtensors.plain(3.0) == 3.0


def test_the_parts_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    class DTensor:
        def __init__(self, part: Any, placements: Any) -> None:
            self._local_tensor, self._spec = part, SimpleNamespace(placements=placements)

    class Asynchronous:
        def wait(self) -> str:
            return "arrived"

    monkeypatch.setattr(dtensors, "_module", lambda: SimpleNamespace(DTensor=DTensor, Replicate=Replicate))
    monkeypatch.setattr(dtensors, "_redistributed", lambda grad, tensor: ("reduced", tensor))
    one, other = vector(1.0), vector(2.0)
    same, partial = (Replicate(),), (Partial(), Replicate())
    found = dtensors.parts([one, DTensor(other, same)], ["a", "b"], [None, same])
    assert found.stored == [one, other] and found.values is found.stored
    late = DTensor(Asynchronous(), same)
    assert dtensors.parts([late], ["a"], [same]).stored == ["arrived"]
    found = dtensors.parts([DTensor(one, partial), DTensor(other, same)], ["a", "b"], [same, same])
    assert found.stored == [one, other]
    assert found.values == [("reduced", "a"), other]


def test_without_the_module_there_are_no_distributed_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtensors, "_module", lambda: None)
    assert dtensors.dtensor_class() == ()
    assert not dtensors.is_dtensor(vector(1.0))
    assert dtensors.layouts([vector(1.0)], lambda tensor: "plain") == ["plain"]
    one = vector(1.0)
    parts = dtensors.parts([one], [one], [None])
    assert parts.stored is parts.values and parts.stored[0] is one


# --- while torch.compile traces -------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "is_compiling", lambda: True)


def test_only_compiled_calls_are_kept_from_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    disabled: list[Any] = []

    def disable(function: Any) -> Any:
        disabled.append(function)
        return lambda *args, **kwargs: ("uncompiled", args, kwargs)

    def halved(number: float, times: int = 1) -> float:
        return number / 2**times

    monkeypatch.setattr(torch.compiler, "disable", disable)
    run = gradients.uncompiled(halved)
    assert (run.__name__, run(4.0, times=2), disabled) == ("halved", 1.0, [])
    monkeypatch.setattr(gradients, "is_compiling", lambda: True)
    assert run(4.0, times=2) == ("uncompiled", (4.0,), {"times": 2})
    assert disabled == [halved]


def test_a_graph_has_no_warnings_and_calls_nothing_twice(compiling: None) -> None:
    first = nn.Parameter(vector(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradients.parameters_of([first, first]) == [first, first]
        assert gradients.gradients([vector(1.0)]) == [None]
    first.grad = vector(2.0)
    calls: list[Any] = []
    gradients.refuse_copies([first], [first.grad], lambda p: calls.append(p))  # type: ignore[arg-type,return-value]
    assert calls == []


class Tagged(torch.Tensor):
    """A subclass that does nothing."""


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("tensors", "plain_ones"),
    [
        ([], True),
        ([vector(1.0)], True),
        ([nn.Parameter(vector(1.0))], True),
        ([vector(1.0), nn.Parameter(vector(1.0))], True),
        ([vector(1.0).as_subclass(Tagged)], False),
        ([vector(1.0), vector(1.0).as_subclass(Tagged)], False),
        ([vector(1.0).as_subclass(Tagged), nn.Parameter(vector(1.0))], False),
    ],
)
def test_tensors_of_a_subclass_are_told_apart(
    tensors: list[torch.Tensor], plain_ones: bool, traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "is_compiling", lambda: traced)
    assert gradients.no_subclass(tensors) is plain_ones
    assert gradients.ordinary(tensors) is plain_ones


def test_an_empty_iterator_and_a_used_one_are_warned_about_and_a_list_is_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradients.gradients([]) == []
        assert gradients.listed([]) == gradients.listed({}) == []
        assert gradients.listed(iter([vector(1.0)])) == [vector(1.0)]


def test_what_is_no_parameter_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"^`parameters` must be a tensor or an iterable of tensors, got names, as of a"
    ):
        gradients.gradients([nn.Parameter(vector(1.0)), "weight"])  # type: ignore[list-item]


def test_a_gradient_is_listed_once() -> None:
    one, other = vector(1.0), vector(1.0)
    assert gradients.distinct([one, other, one, other]) == [one, other]
    several = [one, other]
    assert gradients.distinct(several) is several


# --- what is computed on a GPU ----------------------------------------------------------------------------------------------------------


class Cuda:
    """The kernels, as far as they are called: what they were asked for, and what they answer."""

    def __init__(self, answer: Any = None) -> None:
        self.answer, self.asked = answer, list[Any]()

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **how: Any) -> Any:
            self.asked.append((name, *given, how))
            return self.answer

        return call


def on_cuda(count: int = 1) -> list[Any]:
    return [SimpleNamespace(is_cuda=True, is_cpu=False, device=torch.device("cuda:0")) for _ in range(count)]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda("answer")
    monkeypatch.setattr(local, "_cuda", lambda: made)
    return made


def test_gradients_on_cuda_go_to_the_kernels(cuda: Cuda) -> None:
    grads, sections = on_cuda(2), object()
    assert local.clip_on_cuda_(grads, 3.0, 2.0, True) == "answer"
    assert local.clip_joined_on_cuda_(grads, 3.0, 2.0, sections, True) == "answer"  # type: ignore[arg-type]
    assert local.joined_norm_on_cuda(grads, 2.0, sections) == "answer"  # type: ignore[arg-type]
    assert local.norm(grads, 2.0) == "answer"
    assert local.norm(grads, 2.0, None) == "answer"
    assert cuda.asked == [
        ("clip_", grads, 2.0, 3.0, {"skips": True}),
        ("clip_", grads, 2.0, 3.0, sections, True, {}),
        ("norm", grads, 2.0, torch.float64, sections, {}),
        ("norm", grads, 2.0, torch.float64, {}),
        ("norm", grads, 2.0, None, {}),
    ]
    cuda.asked.clear()
    local.clip_on_cuda_(grads, 3.0, 2.0)
    local.clip_joined_on_cuda_(grads, 3.0, 2.0, sections)  # type: ignore[arg-type]
    assert [call[-1] or call[-2] for call in cuda.asked] == [{"skips": False}, False]


def test_gradients_elsewhere_do_not(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    sections: Any = object()
    for grads, there in (([vector(1.0)], cuda), (on_cuda(), None)):
        monkeypatch.setattr(local, "_cuda", lambda there=there: there)
        assert local.clip_on_cuda_(grads, 3.0, 2.0) is None
        assert local.clip_joined_on_cuda_(grads, 3.0, 2.0, sections) is None
        assert local.joined_norm_on_cuda(grads, 2.0, sections) is None
    assert cuda.asked == []


def test_kernels_that_are_observed_are_not_launched(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local._kernels(on_cuda()) is cuda
    monkeypatch.setattr(local, "is_observed", lambda: True)
    assert local._kernels(on_cuda()) is None
    assert local._kernels([vector(1.0)]) is None


def test_without_triton_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clipcheck.runtime.cuda", None)
    assert local._cuda.__wrapped__() is None
    there = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "clipcheck.runtime.cuda", there)
    assert local._cuda.__wrapped__() is there


class OnCuda(torch.Tensor):
    is_cuda = True  # type: ignore[assignment]


def test_a_norm_on_a_gpu_scales_there(cuda: Cuda) -> None:
    grads, number = on_cuda(2), vector(3.0)[0].as_subclass(OnCuda)
    local.scale_(grads, number, 0.5, skips=True)
    ((name, scaled, by, limit, skips, how),) = cuda.asked
    assert (name, scaled, limit, skips, how) == ("scale_", grads, 0.5, True, {}) and by is number
    cuda.asked.clear()
    local.scale_(grads, number, 0.5)
    assert cuda.asked[0][3:] == (0.5, False, {})


def test_norms_of_several_devices_are_one() -> None:
    total = local._combined([3.0, vector(4.0)[0]], 2.0, CPU)
    assert (total.item(), total.dtype, total.device) == (5.0, torch.float64, CPU)
    assert local._combined([3.0, 4.0], math.inf, CPU).item() == 4.0
    on_meta = local._combined([3.0, 4.0], 2.0, torch.device("meta"))
    assert (on_meta.device.type, on_meta.dtype) == ("meta", torch.float64)


def test_a_gradient_on_another_device_is_measured_there_and_scaled_with_the_others() -> None:
    """As far as a device that holds no values shows it."""
    grads = [vector(3.0), vector(4.0), torch.ones(2, device="meta")]
    norm = local.norm(grads[::-1], 2.0)
    assert isinstance(norm, torch.Tensor) and (norm.device.type, norm.dtype) == ("meta", torch.float64)
    local.scale_(grads, 10.0, 5.0)
    assert [round(g.item(), 5) for g in grads[:2]] == [1.5, 2.0]
    assert {device.type: len(lists) for device, lists in local._by_device(grads).items()} == {"cpu": 1, "meta": 1}


def test_gradients_of_integers_are_refused_by_name() -> None:
    for order in (1.0, 2.0, 3.0):
        with pytest.raises(RuntimeError, match=r"gradients must be floating point or complex, got torch\.int64"):
            local.norm([vector(1.0), torch.tensor([1])], order)


@pytest.mark.parametrize("kind", ["cpu", "cuda", "meta", "mps", "xpu"])
def test_a_result_is_as_wide_as_its_device_can(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "as_tensor", lambda norm, dtype, device: (norm, dtype, device.type))
    tensors: Any = [SimpleNamespace(device=torch.device(kind), dtype=torch.bfloat16)]
    wide = torch.float64 if kind in ("cpu", "cuda", "meta") else torch.float32
    assert clip._result(3.0, tensors, torch.float64) == (3.0, wide, kind)
    assert clip._result(3.0, tensors) == (3.0, torch.float32, kind)
    assert plain._accumulator(torch.device(kind), torch.bfloat16) == wide


def test_the_dtype_of_a_result_is_that_of_the_gradients() -> None:
    wide = torch.tensor(3.0, dtype=torch.float64)
    for norm in (3.0, wide):
        assert clip._result(norm, [vector(1.0).double(), vector(1.0)]).dtype == torch.float64
        assert clip._result(norm, [vector(1.0).bfloat16()]).dtype == torch.float32
    nothing = clip._result(3.0, [])
    assert (nothing.dtype, nothing.device, nothing.dim()) == (torch.float32, CPU, 0)
    assert clip._result(wide.float(), [vector(1.0).half()]).dtype == torch.float32


def test_norms_for_the_host_are_asked_for_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(local, "norm", lambda grads, order, dtype: asked.append(dtype) or 5.0)
    param = nn.Parameter(vector(1.0))
    param.grad = vector(5.0)
    clip.grad_norm([param])
    clip.clip_grad_norm_([param], 1.0, error_if_nonfinite=True)
    clip.get_total_norm([vector(1.0)])
    assert asked == [torch.float64, torch.float64, None]


# --- devices with and without foreach functions -----------------------------------------------------------------------------------------


@pytest.fixture
def foreach(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of foreach functions, which work."""
    called: list[Any] = []

    def norm(grads: list[torch.Tensor], order: float, dtype: torch.dtype) -> list[torch.Tensor]:
        called.append(("norm", len(grads), order, dtype))
        return [torch.zeros((), dtype=dtype, device=grad.device) for grad in grads]

    def mul(grads: list[torch.Tensor], coefficient: torch.Tensor) -> None:
        called.append(("mul", len(grads)))
        for grad in grads:
            grad.mul_(coefficient)

    monkeypatch.setattr(torch, "_foreach_norm", norm)
    monkeypatch.setattr(torch, "_foreach_mul_", mul)
    return called


def meta(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(3, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("grads", "expected"),
    [
        ([meta(), meta()], [("norm", 2, 3.0, torch.float64)]),
        ([meta(), meta(torch.float16)], [("norm", 1, 3.0, torch.float64)] * 2),
        ([meta(torch.complex64)], []),
        ([meta().as_subclass(Tagged)], []),
        ([vector(1.0)], []),  # on the CPU they sum in float32
    ],
)
def test_a_device_with_foreach_functions_takes_one_call_a_dtype(
    grads: list[torch.Tensor], expected: list[Any], foreach: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "FOREACH", {"cpu", "meta"})
    monkeypatch.setattr(plain, "_DTYPE_ARGUMENT", True)
    assert plain.norm(grads, 3.0).dtype == torch.float64
    assert foreach == expected
    foreach.clear()
    for name, value in (("_DTYPE_ARGUMENT", False), ("FOREACH", {"cpu"})):
        monkeypatch.setattr(plain, name, value)
        plain.norm(grads, 3.0)
        assert foreach == []
        monkeypatch.setattr(plain, "_DTYPE_ARGUMENT", True)


def test_without_foreach_functions_each_gradient_is_scaled_by_itself(
    foreach: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(grads: list[torch.Tensor]) -> list[complex]:
        plain.scale_group_(grads, torch.tensor(0.5, dtype=torch.float64))
        return [complex(grad.resolve_conj().item()) for grad in grads]

    assert of([vector(2.0), vector(4.0)]) == [1, 2] and foreach == [("mul", 2)]
    foreach.clear()
    assert of([vector(2.0), vector(4.0).as_subclass(Tagged)]) == [1, 2]
    assert of([torch.tensor([2j]), torch.tensor([4j]).conj()]) == [1j, -2j]
    monkeypatch.setattr(plain, "FOREACH", frozenset())
    assert of([vector(2.0), vector(4.0)]) == [1, 2]
    assert foreach == []


@pytest.mark.parametrize("order", [1.0, 3.0, 11.0, math.inf, -1.0, -math.inf])
def test_a_gradient_without_elements_does_not_count(order: float) -> None:
    empty = torch.zeros(0, 3)
    for grads in ([empty, vector(3.0, -2.0)], [vector(3.0, -2.0), empty]):
        assert plain.norm(grads, order).item() == pytest.approx(reference.total_norm(grads, order))
    nothing = plain.norm([empty.double()], order)
    assert (nothing.item(), nothing.dim(), nothing.dtype) == (0.0, 0, torch.float32)


def test_gradients_are_grouped_in_their_order() -> None:
    one, two, three = vector(1.0), vector(2.0), vector(3.0)
    assert plain._grouped([one, two, three], ["a", "b", "a"]) == [[one, three], [two]]
    assert plain._grouped([], []) == []


# --- what torch has for 16 bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_torch_that_sums_16_bits_otherwise_is_noticed(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = sixteen.has_squares.__wrapped__
    exact = torch.tensor([float(sum(n * n for n in range(256)))])
    assert not ask(torch.float32) and not ask(torch.float64)

    def missing(rows: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented for 'BFloat16'")

    for squares, known in (
        (lambda rows: exact, True),
        (lambda rows: exact.to(dtype), False),
        (lambda rows: exact.double(), False),
        (lambda rows: exact + 2, False),
        (missing, False),
    ):
        monkeypatch.setattr(sixteen, "_squares", squares)
        assert ask(dtype) is known


@pytest.mark.parametrize(("dtype", "row"), [(torch.bfloat16, 256), (torch.float16, 32)])
def test_sums_of_squares_of_rows(dtype: torch.dtype, row: int) -> None:
    """Rows as long as rounding allows, and a shorter one for the remainder."""
    vector_ = torch.arange(2 * row + 3, dtype=torch.float32).remainder(7).to(dtype)
    sums = list(sixteen.squares(vector_))
    assert [len(each) for each in sums] == [2, 1]
    squares = vector_.double().square()
    want = [squares[:row].sum(), squares[row : 2 * row].sum(), squares[2 * row :].sum()]
    assert torch.cat(sums).tolist() == [float(one) for one in want]
    assert [len(each) for each in sixteen.squares(vector_[: 2 * row])] == [2]
    assert torch.cat(list(sixteen.squares(vector_[:5]))).tolist() == [float(squares[:5].sum())]


def test_the_load_of_another_system_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def missing(path: str, flags: int) -> int:
        asked.append((path, flags))
        raise FileNotFoundError

    monkeypatch.setattr(load.os, "O_CLOEXEC", 8, raising=False)
    monkeypatch.setattr(load.os, "O_RDONLY", 1, raising=False)
    monkeypatch.setattr(load.os, "open", missing)
    assert load._running.__wrapped__() is None
    assert asked == [("/proc/loadavg", 9)]
    monkeypatch.delattr(load.os, "O_CLOEXEC")
    assert load._running.__wrapped__() is None  # as on Windows
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        ({}, None),
        ({"torch.distributed.tensor": "public"}, "public"),
        ({"torch.distributed._tensor": "private"}, "private"),
        ({"torch.distributed.tensor": None, "torch.distributed._tensor": "private"}, "private"),
        ({"torch.distributed.tensor": "public", "torch.distributed._tensor": "private"}, "public"),
    ],
)
def test_the_module_of_dtensor_was_private(
    modules: dict[str, str | None], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In torch 2.4 the public name was that of a package without the class."""
    made = {name: SimpleNamespace(DTensor=kind) if kind else SimpleNamespace() for name, kind in modules.items()}
    for name in ("torch.distributed.tensor", "torch.distributed._tensor"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        if name in made:
            monkeypatch.setitem(sys.modules, name, made[name])
    assert getattr(dtensors._module(), "DTensor", None) == found


def test_a_part_that_cannot_be_waited_for_is_taken_as_it_is() -> None:
    part = vector(1.0).as_subclass(Tagged)
    assert dtensors._memory(SimpleNamespace(_local_tensor=part)) is part
