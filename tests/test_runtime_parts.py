"""The runtime's small parts: what a caller is told, which sections are exchanged over which groups, the plain twin."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402

from clipcheck.runtime import culprits, dtensors, gradients, load, looks, plain, reference  # noqa: E402

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


def test_gradients_in_the_place_of_parameters_are_told() -> None:
    with pytest.warns(UserWarning, match="no tensor in `parameters` can hold a gradient"):
        assert gradients.gradients([vector(1.0)]) == [None]
    held = nn.Parameter(vector(1.0))
    held.grad = vector(2.0)
    assert gradients.gradients([held, vector(1.0)])[1] is None  # one is enough
    assert gradients.gradients([nn.Parameter(vector(1.0))]) == [None]
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
