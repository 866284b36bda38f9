"""Replacing torch's functions by the runtime, and restoring them."""

from __future__ import annotations

import functools
import importlib.util
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import utils  # noqa: E402
from torch.nn.utils import clip_grad  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import as_torch  # noqa: E402

NAMES = [
    name
    for module in (utils, clip_grad)
    for public in ("clip_grad_norm_", "get_total_norm", "clip_grads_with_norm_")
    for name in (f"{module.__name__}.{public}", f"{module.__name__}._{public}")
    if hasattr(module, name.rpartition(".")[2])
]


def now() -> dict[str, object]:
    """The functions in torch's places."""
    return {name: vars(sys.modules[name.rpartition(".")[0]])[name.rpartition(".")[2]] for name in NAMES}


BEFORE = now()
OURS = {name: getattr(runtime, name.rpartition(".")[2].lstrip("_")) for name in NAMES}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Each test starts and ends with torch's own functions; references held by other tests do not count."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="these still are torch's functions")
        yield
        runtime.uninstall()
    assert now() == BEFORE


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module that is loaded."""
    made = types.ModuleType("made_up_trainer")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def made_up() -> list[nn.Parameter]:
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0])
    return [param]


def test_our_functions_replace_torchs_and_are_removed_again() -> None:
    found = runtime.install()
    assert now() == OURS
    assert set(found.places) == set(NAMES)
    assert found.foreign == ()
    runtime.uninstall()
    assert now() == BEFORE


def test_the_places_are_those_that_torch_has() -> None:
    assert "torch.nn.utils.clip_grad_norm_" in NAMES
    assert "torch.nn.utils.clip_grad.clip_grad_norm_" in NAMES
    assert len(NAMES) == (6 if hasattr(utils, "get_total_norm") else 2)


def test_a_name_that_torch_lacks_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before torch 2.6."""
    for name in NAMES:
        place, _, attribute = name.rpartition(".")
        if attribute != "clip_grad_norm_":
            monkeypatch.delattr(sys.modules[place], attribute)
    found = runtime.install()
    assert set(found.places) == {f"{module.__name__}.clip_grad_norm_" for module in (utils, clip_grad)}
    assert not hasattr(utils, "get_total_norm")
    runtime.uninstall()
    assert not hasattr(utils, "get_total_norm")


def test_installing_twice_is_installing_once() -> None:
    assert runtime.install() == runtime.install()
    runtime.uninstall()
    assert now() == BEFORE
    assert runtime.uninstall().places == ()


def test_the_results_can_be_changed() -> None:
    runtime.install()
    runtime.install(results="torch")
    assert utils.clip_grad_norm_ is as_torch.clip_grad_norm_
    runtime.install()
    assert now() == OURS


def test_unknown_results_are_refused() -> None:
    with pytest.raises(ValueError, match="plain"):
        runtime.install(results="dtensor")
    with pytest.raises(ValueError, match="plain"), runtime.installed(results="dtensor"):
        pass
    assert now() == BEFORE


def test_calls_reach_our_functions() -> None:
    """With a norm below `max_norm` ours writes nothing, while torch multiplies by 1."""
    params = made_up()
    version = params[0].grad._version
    with runtime.installed():
        assert utils.clip_grad_norm_(params, 9.0).item() == 5.0
        with pytest.warns((FutureWarning, UserWarning), match="deprecated"):  # torch 2.2: the latter
            assert utils.clip_grad_norm(params, 9.0).item() == 5.0
        assert params[0].grad._version == version
    utils.clip_grad_norm_(params, 9.0)
    assert params[0].grad._version > version


def test_a_block_ends_with_what_was_before() -> None:
    with runtime.installed() as found:
        assert set(found.places) == set(NAMES)
        with runtime.installed(results="torch"):
            assert utils.clip_grad_norm_ is as_torch.clip_grad_norm_
        assert now() == OURS
    assert now() == BEFORE
    runtime.install(results="torch")
    with runtime.installed():
        assert now() == OURS
    assert utils.clip_grad_norm_ is as_torch.clip_grad_norm_


def test_a_block_ends_after_an_exception() -> None:
    with pytest.raises(KeyError), runtime.installed():
        raise KeyError
    assert now() == BEFORE


def test_a_decorated_function_runs_with_ours() -> None:
    @runtime.installed()
    def train() -> bool:
        return now() == OURS

    assert train()
    assert now() == BEFORE
    assert train()


def test_installing_inside_a_block_outlives_it() -> None:
    with runtime.installed():
        runtime.install()
    assert now() == OURS


def test_uninstalling_inside_a_block_ends_it() -> None:
    with runtime.installed():
        runtime.uninstall()
        assert now() == BEFORE
        runtime.install()
    assert now() == OURS


# --- other libraries ------------------------------------------------------------------------------------------------


def another(*args: object, **kwargs: object) -> None:
    """The clip of another library."""


@pytest.mark.parametrize(
    "theirs",
    [another, functools.wraps(utils.clip_grad_norm_)(another), functools.partial(utils.clip_grad_norm_), [].append],
    ids=["function", "wrapper", "partial", "built-in"],
)
def test_a_function_of_another_library_is_left_alone(theirs: object) -> None:
    with mock.patch.object(utils, "clip_grad_norm_", theirs):
        with pytest.warns(UserWarning, match=r"torch\.nn\.utils\.clip_grad_norm_ is another library's") as caught:
            found = runtime.install()
        assert caught[0].filename == __file__
        assert utils.clip_grad_norm_ is theirs
        assert found.foreign == ("torch.nn.utils.clip_grad_norm_",)
        assert "torch.nn.utils.clip_grad_norm_" not in found.places
        assert clip_grad.clip_grad_norm_ is runtime.clip_grad_norm_
        runtime.uninstall()
        assert utils.clip_grad_norm_ is theirs
        assert clip_grad.clip_grad_norm_ is BEFORE["torch.nn.utils.clip_grad.clip_grad_norm_"]


def test_what_was_changed_in_between_is_left_alone_and_found_again() -> None:
    runtime.install()
    with mock.patch.object(utils, "clip_grad_norm_", another):
        with pytest.warns(UserWarning, match="was changed after `install`"):
            left = runtime.uninstall()
        assert left.foreign == ("torch.nn.utils.clip_grad_norm_",)
        assert utils.clip_grad_norm_ is another
    assert utils.clip_grad_norm_ is runtime.clip_grad_norm_  # the other library put back what it had found
    runtime.uninstall()
    assert now() == BEFORE


def test_what_the_other_library_put_back_itself_needs_no_warning() -> None:
    runtime.install()
    utils.clip_grad_norm_ = BEFORE["torch.nn.utils.clip_grad_norm_"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.uninstall()
    assert now() == BEFORE


# --- from … import --------------------------------------------------------------------------------------------------


def test_a_module_that_holds_torchs_function_is_named(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    with pytest.warns(UserWarning, match=r"made_up_trainer\.clip") as caught:
        found = runtime.install()
    assert caught[0].filename == __file__
    assert "made_up_trainer.clip" in found.holders
    assert module.clip is BEFORE["torch.nn.utils.clip_grad_norm_"]
    runtime.uninstall()
    with pytest.warns(UserWarning, match=r"made_up_trainer\.clip") as caught, runtime.installed():
        pass
    assert caught[0].filename == __file__


def test_it_is_rebound_when_asked_and_put_back(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    if hasattr(utils, "get_total_norm"):
        module.total = clip_grad._get_total_norm
    found = runtime.install(rebind=True)
    assert "made_up_trainer.clip" in found.places
    assert found.holders == ()
    assert module.clip is runtime.clip_grad_norm_
    if hasattr(utils, "get_total_norm"):
        assert module.total is runtime.get_total_norm
    runtime.install(rebind=True, results="torch")
    assert module.clip is as_torch.clip_grad_norm_
    runtime.install()  # without asking: what was rebound is as before
    assert module.clip is BEFORE["torch.nn.utils.clip_grad_norm_"]
    assert now() == OURS
    with runtime.installed(rebind=True):
        assert module.clip is runtime.clip_grad_norm_
    assert module.clip is BEFORE["torch.nn.utils.clip_grad_norm_"]


def test_what_an_outer_request_rebound_stays_so_in_a_block(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    runtime.install(rebind=True)
    with runtime.installed(results="torch"):
        assert module.clip is as_torch.clip_grad_norm_
    assert module.clip is runtime.clip_grad_norm_


def test_a_module_of_two_names_is_named_once(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    with mock.patch.dict(sys.modules, a_second_name=module):
        holders = runtime.install().holders
    assert [holder for holder in holders if holder.endswith(".clip")] == ["made_up_trainer.clip"]


def test_other_functions_of_torch_are_not_replaced(module: types.ModuleType) -> None:
    module.value, module.old = utils.clip_grad_value_, utils.clip_grad_norm
    found = runtime.install(rebind=True)
    assert not [name for name in (*found.places, *found.holders) if name.startswith("made_up_trainer")]
    assert module.value is utils.clip_grad_value_


def test_our_own_modules_are_not_listed_as_holders() -> None:
    runtime.install()
    assert not [holder for holder in runtime.uninstall().holders if holder.startswith("clipcheck.")]


def test_a_warning_that_is_an_error_ends_the_block(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="made_up_trainer"), runtime.installed():
            raise AssertionError("the block has begun")
    assert now() == BEFORE


def test_a_missing_module_is_not_an_error(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    runtime.install(rebind=True)
    with mock.patch.dict(sys.modules):
        del sys.modules[module.__name__]
        runtime.uninstall()
    assert now() == BEFORE


def test_a_module_imported_in_between_is_named_at_the_end(module: types.ModuleType) -> None:
    with runtime.installed():
        module.clip = utils.clip_grad_norm_
    assert module.clip is runtime.clip_grad_norm_
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it may well have imported ours by itself
        assert "made_up_trainer.clip" in runtime.uninstall().holders


def test_looking_for_holders_loads_no_lazy_module(tmp_path: Path) -> None:
    (tmp_path / "lazy_one.py").write_text("raise RuntimeError('loaded')\n")
    spec = importlib.util.spec_from_file_location("lazy_one", tmp_path / "lazy_one.py")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)

    class Odd:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    with mock.patch.dict(sys.modules, lazy_one=lazy, odd_one=Odd(), none_one=None):
        runtime.install(rebind=True)
        runtime.uninstall()


# --- other users of torch's functions -------------------------------------------------------------------------------


def test_threads_see_ours_until_the_last_block_ends() -> None:
    seen: list[bool] = []
    start = threading.Barrier(8)

    def work() -> None:
        with warnings.catch_warnings():
            start.wait()
            for _ in range(20):
                with runtime.installed():
                    seen.append(utils.clip_grad_norm_ is runtime.clip_grad_norm_)
                    utils.clip_grad_norm_(made_up(), 1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 160
    assert now() == BEFORE


def test_what_was_compiled_before_calls_ours_after() -> None:
    @torch.compile(backend="eager")
    def clip(grad: torch.Tensor) -> torch.Tensor:
        param = nn.Parameter(torch.zeros_like(grad))
        param.grad = grad
        return torch.nn.utils.clip_grad_norm_([param], 1.0)

    huge = torch.tensor([3e4, 4e4], dtype=torch.float16) * 1.5  # a norm beyond float16: infinite in torch, not in ours
    assert clip(huge.clone()).item() == float("inf")
    with runtime.installed():
        assert clip(huge.clone()).item() == pytest.approx(75_000, rel=1e-3)
    assert clip(huge.clone()).item() == float("inf")


def test_a_pickled_function_is_the_one_in_its_place() -> None:
    with runtime.installed():
        assert pickle.loads(pickle.dumps(utils.clip_grad_norm_)) is utils.clip_grad_norm_
    with runtime.installed(results="torch"):
        assert pickle.loads(pickle.dumps(utils.clip_grad_norm_)) is utils.clip_grad_norm_


@pytest.mark.parametrize("results", ["plain", "torch"])
def test_an_empty_iterator_is_warned_about_where_it_is_passed(results: str) -> None:
    with runtime.installed(results=results), pytest.warns(UserWarning, match="empty iterator") as caught:
        utils.clip_grad_norm_(iter([]), 1.0)
    assert caught[0].filename == __file__


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group with only this process."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch has no gloo here")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded_parameter() -> nn.Parameter:
    tensor = pytest.importorskip("torch.distributed.tensor")
    if not hasattr(tensor, "distribute_tensor"):
        pytest.skip("this torch has no public DTensor")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    param = nn.Parameter(tensor.distribute_tensor(torch.zeros(2), mesh, [tensor.Shard(0)]))
    param.grad = tensor.distribute_tensor(torch.tensor([3.0, 4.0]), mesh, [tensor.Shard(0)])
    return param


Clip = Callable[[nn.Parameter], torch.Tensor]
CLIPS: dict[str, Clip] = {
    "in one": lambda param: utils.clip_grad_norm_([param, nn.Parameter(torch.zeros(1))], 1.0),
    "in two": lambda param: utils.get_total_norm(iter([param.grad])),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_the_norm_of_dtensors_is_a_dtensor_when_asked(clip: Clip) -> None:
    param = sharded_parameter()
    with runtime.installed():
        assert type(clip(param)) is torch.Tensor
    param = sharded_parameter()
    with runtime.installed(results="torch"):
        norm = clip(param)
        assert norm.device_mesh == param.device_mesh
        assert all(placement.is_replicate() for placement in norm.placements)
        for value in (norm.full_tensor(), norm.to_local(), norm):
            assert value.item() == 5.0
        utils.clip_grads_with_norm_([param], 0.5, norm)
        assert type(utils.clip_grad_norm_(made_up(), 1.0)) is torch.Tensor
        assert type(utils.get_total_norm([])) is torch.Tensor


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_fsdp1_without_sharding_calls_our_function(use_orig_params: bool) -> None:
    """It calls `torch.nn.utils.clip_grad_norm_` itself, with parameters that are otherwise rejected."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    model = FullyShardedDataParallel(
        nn.Linear(4, 4),
        device_id=torch.device("cpu"),
        use_orig_params=use_orig_params,
        sharding_strategy=ShardingStrategy.NO_SHARD,
    )
    model(torch.ones(2, 4)).square().sum().backward()
    want = runtime.get_total_norm([p.grad.clone() for p in model.parameters()]).item()
    with runtime.installed():
        assert model.clip_grad_norm_(want / 2).item() == pytest.approx(want)
        assert model.clip_grad_norm_(want).item() == pytest.approx(want / 2)
        with pytest.raises(RuntimeError, match=r"model\.clip_grad_norm_"):
            utils.clip_grad_norm_(model.parameters(), 1.0)


# --- where warnings point -------------------------------------------------------------------------------------------


def warned_from(call: Callable[[], object]) -> str:
    """The file that the only warning of a call is about, apart from those about holders."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (only,) = [one for one in caught if "these still are torch's functions" not in str(one.message)]
    return only.filename


def test_each_warning_is_about_the_line_that_calls() -> None:
    patched = mock.patch.object(utils, "clip_grad_norm_", another)

    def block() -> None:
        with runtime.installed():
            patched.start()

    runtime.install()
    with patched:
        assert warned_from(runtime.uninstall) == __file__
    runtime.uninstall()
    try:
        assert warned_from(block) == __file__
    finally:
        patched.stop()


def test_what_was_put_in_a_place_meanwhile_is_said_to_be_anothers() -> None:
    """As long as ours is wanted there; at the end it was changed after `install`."""
    with mock.patch.object(utils, "clip_grad_norm_", another):
        with pytest.warns(UserWarning, match="is another library's function: it is left as it is"):
            runtime.install()
        with pytest.warns(UserWarning, match="is another library's function: it is left as it is"):
            runtime.install()


def test_holders_are_named_in_one_warning(module: types.ModuleType) -> None:
    module.one = module.other = utils.clip_grad_norm_
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = runtime.install()
    assert {"made_up_trainer.one", "made_up_trainer.other"} <= set(found.holders)
    assert [str(one.message) for one in caught] == [
        f"these still are torch's functions: {', '.join(found.holders)}; install before importing their modules, or "
        "with `rebind=True`"
    ]


def test_torchs_own_places_and_our_own_modules_hold_nothing() -> None:
    torchs, ours = utils.clip_grad_norm_, runtime.clip_grad_norm_
    names = ("clipcheck.mine", "vendored.runtime.clip", "clipcheckers.clip", "vendored.other")
    made = {name: types.ModuleType(name) for name in names}
    for each in made.values():
        each.held, each.own = torchs, ours
    with mock.patch.dict(sys.modules, made), mock.patch("clipcheck.runtime.install._PACKAGE", "vendored.runtime"):
        held = runtime.install().holders
        left = runtime.uninstall().holders
    for attribute, holders in (("held", held), ("own", left)):
        assert {f"clipcheckers.clip.{attribute}", f"vendored.other.{attribute}"} <= set(holders)
        assert not [name for name in holders if name.startswith(("clipcheck.", "vendored.runtime", "torch.nn.utils"))]


def test_only_functions_are_held(module: types.ModuleType) -> None:
    """An object that calls torch's function in another way is not replaced."""
    module.partial = functools.partial(utils.clip_grad_norm_)
    module.text = "clip_grad_norm_"
    function, names = utils.clip_grad_norm_, {**vars(clip_grad)}
    module.copy = copy = types.FunctionType(function.__code__, names, function.__name__, None, function.__closure__)
    runtime.install(rebind=True)
    assert module.text == "clip_grad_norm_" and module.partial.func is BEFORE["torch.nn.utils.clip_grad_norm_"]
    assert module.copy is copy


def test_a_request_that_asks_for_nothing_rebinds_nothing(module: types.ModuleType) -> None:
    module.clip = utils.clip_grad_norm_
    runtime.install()
    assert module.clip is BEFORE["torch.nn.utils.clip_grad_norm_"]
    with runtime.installed():
        assert module.clip is BEFORE["torch.nn.utils.clip_grad_norm_"]
        with runtime.installed(rebind=True) as inner:
            assert module.clip is runtime.clip_grad_norm_
            assert "made_up_trainer.clip" in inner.places
        assert module.clip is BEFORE["torch.nn.utils.clip_grad_norm_"]


def test_a_place_that_is_gone_needs_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.install()
    monkeypatch.delattr(utils, "clip_grad_norm_")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = runtime.uninstall()
    assert left.foreign == () and not hasattr(utils, "clip_grad_norm_")
    monkeypatch.undo()
    monkeypatch.setattr(utils, "clip_grad_norm_", BEFORE["torch.nn.utils.clip_grad_norm_"])
    monkeypatch.undo()
    utils.clip_grad_norm_ = BEFORE["torch.nn.utils.clip_grad_norm_"]
