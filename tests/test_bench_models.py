"""The models whose training steps are measured: that each computes what the model it is named after does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from clipcheck.bench import measure, models, steps, workloads  # noqa: E402

CPU = torch.device("cpu")


def sizes(shapes: Any) -> Counter[tuple[int, ...]]:
    """How many there are of each shape; GPT-2's own weights are transposed."""
    return Counter(tuple(sorted(shape)) for shape in shapes)


def sizes_of(model: nn.Module) -> Counter[tuple[int, ...]]:
    return sizes(p.shape for p in model.parameters())


def seen(model: nn.Module, kind: type) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A list that fills with the shapes of what goes into modules of a kind and of what comes out, as they run."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for module in model.modules():
        if type(module) is kind:
            module.register_forward_hook(lambda _, given, out: found.append((tuple(given[0].shape), tuple(out.shape))))
    return found


def input_of(training: models.Training) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model of a training is given, and the loss."""
    given: list[torch.Tensor] = []
    training.model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    loss = training.loss()
    return given[0], loss


@pytest.mark.parametrize(("model", "workload"), [(models.resnet50, "resnet50"), (lambda: models.GPT(12, 768), "gpt2")])
def test_a_model_has_the_parameters_of_the_workload_of_its_name(model: Any, workload: str) -> None:
    with torch.device("meta"):
        assert sizes_of(model()) == sizes(workloads.workload(workload).shapes)


def test_an_image_becomes_smaller_from_stage_to_stage() -> None:
    with torch.device("meta"):
        model = models.resnet50()
        blocks = seen(model, models.Bottleneck)
        shortcuts = [type(block.shortcut) for block in model.modules() if isinstance(block, models.Bottleneck)]
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1000)
    assert [out[1:] for _, out in blocks] == (
        [(256, 16, 16)] * 3 + [(512, 8, 8)] * 4 + [(1024, 4, 4)] * 6 + [(2048, 2, 2)] * 3
    )
    firsts = {0, 3, 7, 13}  # of their stages: other channels go in than come out
    assert [kind is nn.Identity for kind in shortcuts] == [index not in firsts for index in range(16)]
    pools = [module for module in model.modules() if isinstance(module, (nn.MaxPool2d, nn.AdaptiveAvgPool2d))]
    assert [type(pool).__name__ for pool in pools] == ["MaxPool2d", "AdaptiveAvgPool2d"]
    kinds = Counter(type(module) for module in model.modules())
    assert (kinds[nn.ReLU], kinds[nn.Conv2d], kinds[nn.BatchNorm2d]) == (1 + 2 * 16, 53, 53)


def test_a_block_adds_what_it_was_given() -> None:
    block = models.Bottleneck(8, 2, 1).eval()
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), (x + block.inner(x)).relu())
    wider = models.Bottleneck(4, 2, 2).eval()
    x = x[:, :4]
    assert wider.shortcut(x).shape == (1, 8, 2, 2)
    assert torch.equal(wider(x), (wider.shortcut(x) + wider.inner(x)).relu())


def test_attention_is_that_of_gpt_2() -> None:
    """Computed head by head: a place sees itself and what comes before it."""
    torch.manual_seed(0)
    block, x = models.Block(width=6, heads=2), torch.randn(1, 5, 6)
    query, key, value = block.attention(block.before_attention(x))[0].split(6, dim=-1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        scores = query[:, part] @ key[:, part].T / 3**0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ value[:, part])
    attended = x + block.projection(torch.cat(heads, -1))
    torch.testing.assert_close(block(x), attended + block.perceptron(block.before_perceptron(attended)))
    assert [type(module) for module in block.perceptron] == [nn.Linear, nn.GELU, nn.Linear]


def test_a_language_model_is_asked_for_the_next_word() -> None:
    torch.manual_seed(0)
    model = models.GPT(layers=2, width=8, words=7, length=4)
    tokens = torch.randint(7, (3, 4))
    x = model.words(tokens) + model.places(torch.arange(4))
    for block in model.blocks:
        x = block(x)
    likely = (model.norm(x) @ model.words.weight.T).log_softmax(-1)
    wanted = [likely[row, at, tokens[row, at + 1]] for row in range(3) for at in range(3)]
    torch.testing.assert_close(model(tokens), -torch.stack(wanted).mean())
    torch.testing.assert_close(model(tokens[:, :2]), -likely[range(3), 0, tokens[:, 1]].mean())  # shorter ones too
    assert len(model.blocks) == 2


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (64, 1), (128, 2), (768, 12)])
def test_a_head_is_64_wide(width: int, heads: int) -> None:
    with torch.device("meta"):
        assert models.GPT(1, width, 10, 10).blocks[0].heads == heads


def test_the_policy_has_an_actor_and_a_critic() -> None:
    torch.manual_seed(0)
    policy = models.Policy()
    layers = [(8, 64), (64, 64), (64, 4), (8, 64), (64, 64), (64, 1)]
    assert [(m.in_features, m.out_features) for m in policy.modules() if isinstance(m, nn.Linear)] == layers
    assert [type(m) for m in policy.actor] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    observed = torch.randn(5, 8)
    best = policy.actor(observed).softmax(-1).max(-1).values.log()
    torch.testing.assert_close(policy(observed), (policy.critic(observed)[:, 0] ** 2).mean() - best.mean())


@pytest.mark.parametrize(
    ("name", "on_cpu", "on_gpu"),
    [
        ("ppo-policy", (64, 8), (64, 8)),
        ("resnet50", (4, 3, 64, 64), (64, 3, 224, 224)),
        ("gpt2", (1, 64), (8, 1024)),
        ("deep-narrow-gpt", (1, 64), (4, 1024)),
    ],
)
def test_a_batch_is_as_large_as_the_device_can_do_with(
    name: str, on_cpu: Any, on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[torch.device] = []

    def without_a_device(make: Any) -> Any:
        def made(*given: Any, device: torch.device) -> torch.Tensor:
            devices.append(device)
            return make(*given)

        return made

    for function in ("randn", "randint"):
        monkeypatch.setattr(torch, function, without_a_device(getattr(torch, function)))
    monkeypatch.setattr(nn.Module, "to", lambda model, device: devices.append(device) or model)
    for kind, expected in (("cpu", on_cpu), ("cuda", on_gpu)):
        with torch.device("meta"):  # no GPU is needed, and nothing is computed
            given, loss = input_of(models.TRAININGS[name](torch.device(kind)))
        assert (tuple(given.shape), tuple(loss.shape)) == (expected, ())
        assert {device.type for device in devices} == {kind}
        devices.clear()


def test_the_narrow_model_is_deep() -> None:
    with torch.device("meta"):
        model = models.TRAININGS["deep-narrow-gpt"](torch.device("meta")).model
    assert len(model.blocks) == 48
    assert model.words.weight.shape == (4096, 128)
    with torch.device("meta"):
        large = models.TRAININGS["gpt2"](torch.device("meta")).model
    assert sizes_of(large) == sizes(workloads.workload("gpt2").shapes)


# --- whole steps --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> nn.Linear:
    """A model of one weight of 1 and one bias of 0, whose loss has the gradient (3, 4) wherever it is."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    training = models.Training(model, lambda: 3 * model.weight.sum() + 4 * model.bias.sum())
    monkeypatch.setitem(models.TRAININGS, "tiny", lambda device: training)
    return model


def test_a_step_clips_what_one_batch_gives(tiny: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in steps.CLIPS}

    def noting(name: str) -> Any:
        def clip(params: list[torch.Tensor], max_norm: float) -> object:
            result = clips[name](params, max_norm)
            seen[name].append((sum(float(p.grad.square()) for p in params if p.grad is not None) ** 0.5, max_norm))
            return result

        return clip

    clips = dict(steps.CLIPS)
    for name in clips:
        monkeypatch.setitem(steps.CLIPS, name, noting(name))
    found = list(steps.steps("tiny", CPU, rounds=3))
    assert [(step.model, step.parameters) for step in found] == [("tiny", 2)] * 4
    for name, clipped in seen.items():
        assert len(clipped) == 6  # twice to warm up, once as all timed calls are, and in each round
        assert clipped == [(pytest.approx(5.0 if name == "no clip" else 1.0, rel=1e-4), 1.0)] * 6
    assert float(tiny.weight.detach()) < 1  # it was trained


def test_a_step_is_told_relative_to_one_without_a_clip(tiny: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    walls = {"no clip": [2.0, 4.0, 6.0], "torch": [3.0, 6.0, 9.0], "clipcheck": [2.0, 5.0, 6.6]}
    asked: list[tuple[Any, ...]] = []

    def timed(calls: Any, device: Any, reset: Any, rounds: int, only_wall: bool) -> Any:
        asked.append((device, reset(), rounds, only_wall))
        return {name: measure.Timing(walls.get(name, [1.0, 1.0, 1.0]), None) for name in calls}

    monkeypatch.setattr(measure, "interleaved", timed)
    found = {step.clip: step for step in steps.steps("tiny", CPU, rounds=3)}
    assert asked == [(CPU, None, 3, True)]
    assert (found["no clip"].added, found["torch"].added) == (0.0, pytest.approx(0.5))
    assert (found["no clip"].wall_ms, found["clipcheck"].wall_ms) == (4.0, 5.0)
    assert found["clipcheck"].added == pytest.approx(0.1)
    assert steps.line(found["torch"]) == "tiny                     2  torch                         6.00   +50.0%"
    assert steps.line(found["no clip"]) == "tiny                     2  no clip                       4.00"
    assert len(steps.HEADER) == len(steps.line(found["torch"]))
