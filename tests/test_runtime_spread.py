"""Which process groups a list of tensors is spread over, asked of groups and meshes that are made up."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

if not dist.is_available():
    pytest.skip("torch has no process groups here", allow_module_level=True)

from clipcheck.runtime import again, dtensors, exchange, local, reference, sharded, spread  # noqa: E402
from clipcheck.runtime.spread import Asked, Exchange, Spread  # noqa: E402


class Group(dist.ProcessGroup):
    """A process group of so many ranks, which torch does not list."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(0, size)
        self.ranks = size

    def size(self) -> int:
        return self.ranks


class Mesh:
    """A mesh with a group for each dimension; this rank may be outside of it."""

    def __init__(self, *groups: Group, inside: bool = True) -> None:
        self.groups, self.inside = groups, inside
        self.ndim = len(groups)

    def get_coordinate(self) -> list[int] | None:
        return [0] * self.ndim if self.inside else None

    def get_group(self, dim: int) -> Group:
        return self.groups[dim]

    def size(self, dim: int) -> int:
        return self.groups[dim].size()


class OldMesh(Mesh):
    """As in torch 2.2."""

    get_group = None  # type: ignore[assignment]

    def get_dim_groups(self, dim: int) -> Group:
        return self.groups[dim]


class Placement:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def is_replicate(self) -> bool:
        return self.kind == "replicate"

    def is_partial(self) -> bool:
        return self.kind == "partial"


SPLIT, WHOLE, PARTIAL = map(Placement, ("split", "replicate", "partial"))


class DTensor:
    def __init__(self, mesh: Mesh, *placements: Placement) -> None:
        self.device_mesh, self.placements = mesh, placements
        self._spec = SimpleNamespace(mesh=mesh, placements=placements)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(DTensor=DTensor, Replicate=lambda: WHOLE)
    monkeypatch.setattr(dtensors, "_module", lambda: module)
    monkeypatch.setattr(spread, "_plans", [])
    monkeypatch.setattr(again, "_met", ())


A, B, ALONE = Group(), Group(4), Group(1)
ONE, OTHER = torch.ones(1), torch.ones(2)


# --- what a caller names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        (None, []),
        (A, [A]),
        ([A, B], [A, B]),
        (iter([A]), [A]),
        (Mesh(A, B), [A, B]),
        (OldMesh(A, B), [A, B]),
        ([Mesh(A), B], [A, B]),
        (Mesh(A, B, inside=False), [None, None]),
        (dist.GroupMember.NON_GROUP_MEMBER, [None]),
        ([dist.GroupMember.NON_GROUP_MEMBER, A], [None, A]),
        ([], []),
    ],
)
def test_groups_and_meshes_in_the_order_in_which_they_are_given(given: Any, groups: list[Group | None]) -> None:
    assert list(spread._each(given)) == groups


def test_a_group_of_one_rank_exchanges_nothing() -> None:
    assert spread._shared([A, ALONE, dist.GroupMember.NON_GROUP_MEMBER, B]) == (A, B)
    assert spread._shared(None) == spread._shared(ALONE) == ()


@pytest.mark.parametrize("given", [3, "group", [3], ["group"], object(), [A, None]])
def test_what_is_neither_is_refused(given: Any) -> None:
    kind = type(given[-1] if isinstance(given, list) else given).__name__
    with pytest.raises(TypeError, match=f"a device mesh or several of them, got `{kind}`$"):
        list(spread._each(given))


# --- what a DTensor shows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "groups"),
    [
        (DTensor(Mesh(A), SPLIT), (A,)),
        (DTensor(Mesh(A), WHOLE), ()),
        (DTensor(Mesh(A), PARTIAL), ()),
        (DTensor(Mesh(ALONE), SPLIT), ()),
        (DTensor(Mesh(A, B), SPLIT, SPLIT), (A, B)),
        (DTensor(Mesh(A, B), WHOLE, SPLIT), (B,)),
        (DTensor(Mesh(A, B), SPLIT, PARTIAL), (A,)),
        (DTensor(Mesh(A, ALONE), SPLIT, SPLIT), (A,)),
        (DTensor(Mesh(A, inside=False), SPLIT), ()),
    ],
)
def test_the_groups_that_a_dtensor_is_split_over(tensor: Any, groups: tuple[Group, ...]) -> None:
    assert spread._split_over(tensor) == groups


def test_everything_in_this_process_needs_no_plan() -> None:
    assert spread.spread([ONE, OTHER], Asked()) is None
    assert spread._plans == []
    for asked in (Asked(group=A), Asked(all_groups=[A]), Asked(shard_group=A)):
        assert spread.spread([ONE, OTHER], asked) is not None


def found(tensors: list[Any], asked: Asked) -> Spread:
    made = spread.spread(tensors, asked)
    assert made is not None
    return made


def test_the_sections_of_dtensors_and_of_other_tensors() -> None:
    mesh = Mesh(A, B)
    tensors = [DTensor(mesh, SPLIT, WHOLE), ONE, DTensor(mesh, PARTIAL, SPLIT), DTensor(mesh, SPLIT, SPLIT), OTHER]
    how = found(tensors, Asked(shard_group=lambda tensor: A if tensor is OTHER else None))
    assert how.section_of == [0, 1, 2, 3, 0]
    assert (how.sections, how.groups, how.is_aligned) == (4, (), True)
    assert how.exchanges == (Exchange(A, (slice(0, 1), slice(3, 4))), Exchange(B, (slice(2, 4),)))
    assert how.placements == [(SPLIT, WHOLE), None, (WHOLE, SPLIT), (SPLIT, SPLIT), None]  # partial sums are reduced
    assert list(how.every_group) == [A, B]
    assert spread._plans[0].meshes == [mesh]  # kept alive, since plans know it by its identity


def test_stages_and_groups_that_always_take_part() -> None:
    how = found([ONE], Asked(group=[A, ALONE, B]))
    assert (how.section_of, how.sections, how.exchanges, how.groups) == ([0], 1, (), (A, B))
    assert list(how.every_group) == [A, B] and how.is_aligned
    how = found([], Asked(group=A))
    assert (how.section_of, how.sections, how.exchanges) == ([], 1, ())
    how = found([ONE, OTHER], Asked(shard_group=lambda tensor: B if tensor is ONE else None, all_groups=[A, B]))
    assert (how.section_of, how.sections, how.is_aligned) == ([2, 0], 4, False)
    assert how.exchanges == (Exchange(A, (slice(1, 2), slice(3, 4))), Exchange(B, (slice(2, 4),)))
    whole = found([ONE, OTHER], Asked(shard_group=A))
    assert (whole.section_of, whole.exchanges) == ([0, 0], (Exchange(A, (slice(0, 1),)),))


# --- plans ----------------------------------------------------------------------------------------------------------------


def test_a_plan_is_found_again_by_all_that_it_depends_on() -> None:
    mesh = Mesh(A)
    tensors: list[Any] = [DTensor(mesh, SPLIT), ONE]
    how = found(tensors, Asked())
    assert found([DTensor(mesh, SPLIT), OTHER], Asked()) is how
    others = [
        found([ONE, tensors[0]], Asked()),
        found([DTensor(mesh, WHOLE), ONE], Asked()),
        found([DTensor(Mesh(A), SPLIT), ONE], Asked()),
        found(tensors, Asked(group=B)),
        found(tensors, Asked(shard_group=A)),
        found(tensors, Asked(all_groups=[A])),
        found(tensors, Asked(all_groups=[A, B])),
        found(tensors[:1], Asked()),
    ]
    assert len({how, *others}) == 9
    assert found(tensors, Asked()) is how is spread._plans[0].spread
    assert len(spread._plans) == 9


def test_the_plans_used_last_are_kept() -> None:
    first = found([ONE], Asked(group=A))
    for count in range(2, spread.PLANS + 1):
        found([ONE] * count, Asked(group=A))
    second = spread._plans[-2].spread
    assert found([ONE], Asked(group=A)) is first
    found([ONE] * (spread.PLANS + 1), Asked(group=A))
    assert len(spread._plans) == spread.PLANS
    assert found([ONE], Asked(group=A)) is first
    assert found([ONE] * 2, Asked(group=A)) is not second


def test_a_plan_ends_with_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {A, B}
    monkeypatch.setattr(dist, "get_backend", lambda group: "gloo" if group in listed else 1 / 0)
    how = found([ONE], Asked(shard_group=A, group=B))
    assert found([ONE], Asked(shard_group=A, group=B)) is how
    assert spread.are_listed(how)
    listed.discard(A)
    assert not spread.are_listed(how)
    assert found([ONE], Asked(shard_group=A, group=B)) is not how
    assert spread.are_listed(found([ONE], Asked(group=B)))


# --- FSDP1 ----------------------------------------------------------------------------------------------------------------


def refused(tensors: list[Any], *callers: str) -> bool:
    """Whether parameters are refused when functions of modules of these names call each other, the last one ours."""
    call: Any = spread.refuse_fsdp1
    for name in reversed(callers):
        names: dict[str, Any] = {"__name__": name, "call": call}
        exec("def function(tensors):\n    return call(tensors)", names)
        call = names["function"]
    try:
        call(tensors)
    except RuntimeError as error:
        return "call `model.clip_grad_norm_()` on the wrapped model instead, or pass `shard_group`" in str(error)
    return False


FLAT, VIEW, PLAIN = SimpleNamespace(_is_flat_param=True), SimpleNamespace(_fsdp_flattened=True), SimpleNamespace()
NOT_FLAT = SimpleNamespace(_is_flat_param=False, _fsdp_flattened=False)
FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel"


@pytest.fixture
def distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a job that has loaded FSDP1."""
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", SimpleNamespace())
    monkeypatch.setattr(dist, "is_initialized", lambda: True)


@pytest.mark.parametrize(
    ("tensors", "is_refused"),
    [([FLAT], True), ([PLAIN, VIEW], True), ([PLAIN, NOT_FLAT], False), ([], False)],
)
def test_parameters_of_fsdp1_are_refused(tensors: list[Any], is_refused: bool, distributed: None) -> None:
    assert refused(tensors, "train", "clipcheck.runtime.clip") is is_refused


def test_parts_of_parameters_are_refused_unless_their_group_is_given(distributed: None) -> None:
    for asked in (Asked(), Asked(group=A), Asked(all_groups=[A])):
        with pytest.raises(RuntimeError, match="FSDP1"):
            spread.spread([PLAIN, VIEW], asked)  # type: ignore[list-item]
    assert found([PLAIN, VIEW], Asked(shard_group=A)).section_of == [0, 0]


def test_a_dtensor_is_not_of_fsdp1(distributed: None) -> None:
    tensor: Any = DTensor(Mesh(A), SPLIT)
    tensor._fsdp_flattened = True
    assert not refused([tensor], "train")


@pytest.mark.parametrize(
    ("callers", "is_refused"),
    [
        ((FSDP1, "clipcheck.runtime.clip"), False),
        ((FSDP1, "clipcheck.runtime.as_torch", "clipcheck.runtime.clip", "clipcheck.runtime.spread"), False),
        ((FSDP1, "clipcheck.audit.watch", "clipcheck.runtime.clip"), False),
        ((FSDP1, "torch.nn.utils.clip_grad", "clipcheck.runtime.clip"), True),
        ((FSDP1, "train", "clipcheck.runtime.clip"), True),
        (("torch.distributed.fsdp", "clipcheck.runtime.clip"), True),
    ],
)
def test_unless_fsdp1_itself_calls(callers: tuple[str, ...], is_refused: bool, distributed: None) -> None:
    """It does so only where nothing is sharded."""
    assert refused([VIEW], *callers) is is_refused


def test_only_a_job_that_uses_fsdp1_is_asked(distributed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused([FLAT], "train")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    assert not refused([FLAT], "train")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "is_available", lambda: False)
    assert not refused([FLAT], "train")
    monkeypatch.setattr(dist, "is_available", lambda: True)
    monkeypatch.delitem(sys.modules, "torch.distributed.fsdp")
    assert not refused([FLAT], "train")


# --- the same specs again -------------------------------------------------------------------------------------------------


def parameter(spec: object, of_gradient: object | None = None, part: object = "part") -> Any:
    grad = SimpleNamespace(_spec=of_gradient or spec, _local_tensor=part)
    return SimpleNamespace(_spec=spec, grad=grad)


def spread_over(*exchanges: Exchange, groups: tuple[Group, ...] = (), is_aligned: bool = True) -> Spread:
    return Spread([], [0], 1, exchanges, groups, is_aligned)


@pytest.fixture
def clipped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the kernels were asked to clip."""
    asked: list[Any] = []

    def clip_(parts: Any, max_norm: float, norm_type: float, sections: Any, skips: bool) -> Any:
        asked.append((parts, max_norm, norm_type, sections, skips, torch.is_grad_enabled()))
        return "norm"

    monkeypatch.setattr(local, "clip_joined_on_cuda_", clip_)
    monkeypatch.setattr(exchange, "sections_of", lambda how, norm_type: (how, norm_type))
    monkeypatch.setattr(dist, "get_backend", lambda group: "nccl")
    return asked


def remember(params: list[Any], how: Spread) -> None:
    again.remember(params, [p.grad for p in params], how)


def test_specs_that_were_met_before_need_no_plan(clipped: list[Any]) -> None:
    params, how = [parameter("a", "of a", "first"), parameter("b", part="second")], spread_over(Exchange(A, ()))
    assert again.clip_(params, 1.0, 2.0, True) is None
    remember(params, how)
    for order in (1.0, 2.0, float("inf")):
        assert again.clip_(params, 1.5, order, True) == "norm"
        assert clipped.pop() == (["first", "second"], 1.5, order, (how, order), True, False)
    for other in (
        [params[0]],
        params[::-1],
        [params[0], parameter("c")],
        [parameter("a", "another"), params[1]],
        [*params, parameter("b")],
    ):
        assert again.clip_(other, 1.0, 2.0, True) is None
    assert again.clip_(params, 1.0, 3.0, True) is None  # whose powers may overflow
    params[0].grad = None
    assert again.clip_(params, 1.0, 2.0, True) is None
    assert again.clip_([torch.nn.Parameter(ONE)], 1.0, 2.0, True) is None
    assert clipped == []


def test_specs_are_not_asked_while_torch_compiles(clipped: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    params = [parameter("a")]
    remember(params, spread_over())
    monkeypatch.setattr(again, "is_compiling", lambda: True)
    assert again.clip_(params, 1.0, 2.0, False) is None


def test_a_spread_whose_groups_are_gone_is_not_used(clipped: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    params = [parameter("a")]
    remember(params, spread_over(Exchange(A, ())))
    monkeypatch.setattr(dist, "get_backend", lambda group: 1 / 0)
    assert again.clip_(params, 1.0, 2.0, False) is None


@pytest.mark.parametrize(
    ("params", "how"),
    [
        ([parameter("a")], spread_over(groups=(A,))),
        ([parameter("a")], spread_over(is_aligned=False)),
        ([SimpleNamespace(_spec="a", grad=None)], spread_over()),
        ([parameter("a"), SimpleNamespace(grad=SimpleNamespace())], spread_over()),
    ],
)
def test_what_is_not_all_dtensors_of_one_stage_is_not_remembered(params: list[Any], how: Spread) -> None:
    remember(params, how)
    assert again._met == ()


def test_the_specs_used_last_are_kept(clipped: list[Any]) -> None:
    known = [[parameter(str(n))] for n in range(again.KEPT)]
    for params in known:
        remember(params, spread_over())
    assert again.clip_(known[0], 1.0, 2.0, False) == "norm"  # the oldest, which is the one used last now
    remember([parameter("new")], spread_over())
    assert len(again._met) == again.KEPT
    assert [again.clip_(params, 1.0, 2.0, False) for params in known] == ["norm", None, *["norm"] * (again.KEPT - 2)]
    again._forget()
    assert again.clip_(known[0], 1.0, 2.0, False) is None


# --- the kernels, where they know the gradients ---------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the kernels are asked for; they answer with 7."""
    asked: list[Any] = []
    monkeypatch.setattr(local, "clip_joined_on_cuda_", lambda *given: asked.append(("clip", *given)) or 7)
    monkeypatch.setattr(local, "joined_norm_on_cuda", lambda *given: asked.append(("norm", *given)) or 7)
    return asked


def gradient() -> torch.Tensor:
    return torch.tensor([3.0, 4.0])


def test_sums_over_processes_are_joined_between_the_kernels(
    kernels: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered: list[Any] = []
    monkeypatch.setattr(again, "remember", lambda *given: remembered.append(given))
    grads: list[Any] = [gradient(), None]
    how = Spread([None, None], [0, 1], 2, (), (), True)
    assert sharded.clip_([ONE, OTHER], grads, 1.5, 2.0, how, skips=True) == 7
    ((name, values, max_norm, norm_type, sections, skips),) = kernels
    assert (name, values, max_norm, norm_type, skips) == ("clip", grads[:1], 1.5, 2.0, True)
    assert (sections.of, sections.number) == ([0], 2)
    assert remembered == [([ONE, OTHER], grads, how)]
    counted = sharded.clip_([ONE, OTHER], grads, 1.5, 2.0, how, counts=lambda tensor: tensor is OTHER)
    assert counted == 7 and len(remembered) == 1  # what counts may be another thing in the next step
    assert kernels[1][4].of == [2]
    assert sharded.norm([ONE, OTHER], grads, float("inf"), how) == 7
    assert kernels[2][:3] == ("norm", grads[:1], float("inf"))


@pytest.mark.parametrize("norm_type", [3.0, 0.5, 0.0, -float("inf")])
def test_other_orders_are_not_for_the_kernels(norm_type: float, kernels: list[Any]) -> None:
    how = Spread([None], [0], 1, (), (), True)
    exact = reference.total_norm([gradient()], norm_type)
    assert sharded.norm([ONE], [gradient()], norm_type, how).item() == pytest.approx(exact, rel=1e-7)
    grad = gradient()
    assert sharded.clip_([ONE], [grad], exact / 2, norm_type, how).item() == pytest.approx(exact, rel=1e-7)
    torch.testing.assert_close(grad, gradient() / 2, rtol=1e-5, atol=0)
    assert kernels == []


def test_without_gradients_the_kernels_have_nothing_to_do(kernels: list[Any]) -> None:
    how = Spread([None], [0], 1, (), (), True)
    assert sharded.norm([ONE], [None], 2.0, how).item() == sharded.clip_([ONE], [None], 1.0, 2.0, how).item() == 0.0
    assert kernels == []


def test_partial_sums_are_measured_reduced_and_scaled_as_they_are(
    kernels: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, reduced = torch.tensor([10.0, 20.0]), gradient()
    monkeypatch.setattr(dtensors, "parts", lambda *_: dtensors.Parts([stored], [reduced]))
    how = Spread([None], [0], 1, (), (), True)
    assert sharded.clip_([ONE], [stored], 2.5, 2.0, how).item() == 5.0
    torch.testing.assert_close(stored, torch.tensor([5.0, 10.0]), rtol=1e-5, atol=0)
    assert (reduced.tolist(), kernels) == ([3.0, 4.0], [])


def test_the_0_norm_of_ranks_with_other_lists_is_not_known() -> None:
    how = Spread([None], [0], 1, (), (), False)
    with pytest.raises(ValueError, match="the 0-norm counts gradients that every rank lists"):
        sharded.norm([ONE], [gradient()], 0, how)
