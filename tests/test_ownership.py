"""Whether an optimizer has the parameters of a module, judging by its creation, or else by names."""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.engine.file import check_file
from clipcheck.python.source import Source
from clipcheck.settings.keys import Settings
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import flow
from clipcheck.training.optimizers import is_optimizer, is_scaler
from clipcheck.training.ownership import is_for
from clipcheck.training.parameters import named_alike, surely_belong

BEFORE = """\
import torch
def f(net, other, loss):
    one = torch.optim.SGD(net.parameters())
    of_part = torch.optim.SGD(loss.critic.parameters())
    wrapped = DDP(net)
    again = wrapped
    twin = Net(3)
    twice, one_more = prepare(net, 3)
    late = torch.optim.SGD(net.parameters())
    late.add_param_group({"params": other.parameters()})
"""


def asked(parameters: str, optimizer: str) -> tuple[Source, cst.BaseExpression, cst.BaseExpression]:
    source = Source(BEFORE + f"    see({parameters}, {optimizer})\n")
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    return source, call.args[0].value, call.args[1].value


@pytest.mark.parametrize(
    ("parameters", "optimizer", "expected"),
    [
        ("net.parameters()", "one", True),
        ("net.module.parameters()", "one", True),
        ("net._orig_mod.head.parameters()", "one", True),
        ("loss.module.critic.parameters()", "of_part", True),
        ("loss.actor.parameters()", "of_part", False),
        ("other.parameters()", "one", False),
        ("twin.parameters()", "one", False),
        # made from the module that the optimizer was given: it may well be the same
        ("wrapped.parameters()", "one", None),
        ("again.parameters()", "one", None),
        ("twice.parameters()", "one", None),
        ("one_more.parameters()", "one", None),
        # what comes later is not known
        ("other.parameters()", "late", None),
        ("unknown", "one", None),
        ("net.parameters()", "unknown", None),
    ],
)
def test_what_an_optimizer_was_created_from(parameters: str, optimizer: str, expected: bool | None) -> None:
    assert surely_belong(*asked(parameters, optimizer)) is expected


@pytest.mark.parametrize(
    ("parameters", "optimizer", "expected"),
    [
        ("net_g.parameters()", "g_optim", True),
        ("generator.parameters()", "opt_g", True),
        ("discriminator.parameters()", "optimizer_disc", True),
        ("critic.parameters()", "opt_cls", False),  # one letter in common
        ("net_d.parameters()", "opt_g", False),
        ("model.parameters()", "opt_g", None),
        ("net_g.parameters()", "optimizer", None),
    ],
)
def test_what_names_imply(parameters: str, optimizer: str, expected: bool | None) -> None:
    assert named_alike(*asked(parameters, optimizer)) is expected


STEP = "    scaler.scale(loss).backward()\n"


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("def f(net_g, net_d, opt_g, opt_d, loss, scaler):\n" + STEP + "    scaler.unscale_(opt_d)\n    CLIP(net_g.parameters(), 1.0)\n    scaler.step(opt_g)\n    scaler.step(opt_d)\n", [5]),
        # no optimizer here is named like what is clipped
        ("def f(critic, opt_d, loss, scaler):\n" + STEP + "    scaler.unscale_(opt_d)\n    CLIP(critic.parameters(), 1.0)\n    scaler.step(opt_d)\n", []),
        ("def f(critic, opt_d, opt_g, loss, scaler):\n" + STEP + "    scaler.unscale_(opt_d)\n    CLIP(critic.parameters(), 1.0)\n    scaler.step(opt_d)\n    scaler.step(opt_g)\n", []),
        ("def f(net_g, optimizer, opt_g, loss, scaler):\n" + STEP + "    scaler.unscale_(optimizer)\n    CLIP(net_g.parameters(), 1.0)\n    scaler.step(optimizer)\n    scaler.step(opt_g)\n", []),
    ],
)  # fmt: skip
def test_unscaled_for_another_optimizer_by_names(body: str, lines: list[int]) -> None:
    text = "import torch\n" + body.replace("CLIP", "torch.nn.utils.clip_grad_norm_")
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({"CLIP305"})))
    assert report.errors == ()
    assert [finding.place.line for finding in report.findings] == lines


# --- what is an optimizer, judging by its creation or else by its name ------------------------------------------------


@pytest.mark.parametrize(
    "name",
    "optimizer optim optimizers g_optim self.optimizer opt opt_d opts adam adamw sgd rmsprop lbfgs self.sgd optimG".split(),
)
def test_names_of_optimizers(name: str) -> None:
    source, asked_for, _ = asked(name, "None")
    assert is_optimizer(source, asked_for)


@pytest.mark.parametrize(
    "name",
    "model option copt scheduler optimizer_scheduler lr_optimizer opt_lr lrs_optim warmup_optimizer optimizer_profiler "
    "prof_optim ema_optimizer optimizer_ema adams".split(),
)
def test_names_of_other_things(name: str) -> None:
    source, asked_for, _ = asked(name, "None")
    assert not is_optimizer(source, asked_for)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("x = torch.optim.SGD(net.parameters())", True),
        ("x = BertAdam(net.parameters())", True),
        ("x = Net(3)", False),
        ("optimizer = torch.optim.lr_scheduler.StepLR(one, 3)", False),
        ("optimizer = torch.optim.swa_utils.AveragedModel(net)", False),
        ("optimizer = make(net)", True),  # the name says it
        ("optimizer = torch.optim.lr_scheduler.StepLR(one, 3)\n    optimizer = one", True),  # not known: one of two
        ("for x in torch.optim.SGD(net):\n        x = torch.optim.SGD(net)", False),
        ("x = several[3]", False),
        ("x = optimizers[3]", True),
        ("x = schedulers[3]", False),
    ],
)
def test_an_assignment_counts_more_than_the_name(made: str, expected: bool) -> None:
    name = made.split()[1 if made.startswith("for") else 0]
    source = Source(f"{BEFORE}    {made}\n    see({name})\n")
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert is_optimizer(source, call.args[0].value) is expected


SEVERAL = "import torch\ndef f(net, a_opt, other):\n    kinds = {1: torch.optim.SGD(net.parameters())}\n    made = [torch.optim.SGD(p) for p in net]\n"


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ("for x in made", True),
        ("for x in self.optimizers", True),
        ("for x in kinds.values()", True),
        ("for n, x in kinds.items()", True),
        ("for x in (a_opt, optimizer)", True),
        ("for x in [a_opt, other]", False),
        ("for x in ()", False),
        ("for x in kinds.items()", False),
        ("for x, n in kinds.items()", False),
        ("for x in kinds.keys()", False),
        ("for x, y in made", False),
        ("for x in net", False),
        ("for x in lr_schedulers", False),
        ("while x := net", False),
    ],
)
def test_a_name_that_is_one_of_several_optimizers(loop: str, expected: bool) -> None:
    source = Source(f"{SEVERAL}    {loop}:\n        see(x)\n")
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert is_optimizer(source, call.args[0].value) is expected


def test_a_name_of_two_loops_is_what_its_own_loop_gives() -> None:
    source = Source(f"{SEVERAL}    for x in net:\n        x.f()\n    for x in made:\n        see(x)\n")
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert is_optimizer(source, call.args[0].value)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("self.tool = torch.optim.SGD(net.parameters())", True),
        (
            "self.tool = torch.optim.SGD(net.parameters()); self.tool = None",
            False,
        ),  # not known, and the name says nothing
        ("self.other = torch.optim.SGD(net.parameters())", False),
        ("other.tool = torch.optim.SGD(net.parameters())", False),
    ],
)
def test_an_attribute_is_what_its_class_assigns(method: str, expected: bool) -> None:
    source = Source(
        f"import torch\nclass A:\n    def f(self, net):\n        {method}\n    def g(self):\n        see(self.tool)\n"
    )
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert is_optimizer(source, call.args[0].value) is expected


@pytest.mark.parametrize(
    ("keeps", "expected"),
    [
        ("self.net = net", True),
        ("self.net = net; self.net = other", None),
        ("self.net = wrap(net)", None),
        ("self.net = other", None),
        ("net = other; self.net = net", None),
    ],
)
def test_a_parameter_that_is_kept_as_an_attribute(keeps: str, expected: bool | None) -> None:
    source = Source(
        f"import torch\nclass A:\n    def __init__(self, net, other):\n        {keeps}\n"
        "        self.opt = torch.optim.SGD(net.parameters())\n"
        "    def g(self):\n        see(self.net.parameters(), self.opt)\n"
    )
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert surely_belong(source, call.args[0].value, call.args[1].value) is expected


def test_what_is_made_from_a_kept_parameter_may_be_the_same() -> None:
    source = Source(
        "import torch\nclass A:\n    def __init__(self, net):\n        self.net = net\n        ddp = DDP(net)\n"
        "        self.opt = torch.optim.SGD(ddp.parameters())\n        see(net.parameters(), self.opt)\n"
    )
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert surely_belong(source, call.args[0].value, call.args[1].value) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("scaler", True), ("self.grad_scaler", True), ("rescaler", False), ("scale", False)]
)
def test_names_of_scalers(name: str, expected: bool) -> None:
    _, asked_for, _ = asked(name, "None")
    assert is_scaler(asked_for) is expected


NETS = """\
import torch

def clip(m):
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)

def clip_actor(nets):
    clip(nets.actor)

def clip_critic(nets):
    clip(nets.critic)

class A:
    def __init__(self):
        self.first = torch.optim.SGD(self.nets.actor.parameters())
        self.second = torch.optim.SGD(self.nets.critic.parameters())

    def f(self, loss):
        self.first.zero_grad()
        loss.backward()
        clip_actor(self.nets)
        self.first.step()
        self.second.zero_grad()
        loss.backward()
        {}(self.nets)
        self.second.step()
"""


@pytest.mark.parametrize(("clip", "lines"), [("clip_critic", []), ("clip_actor", [24])])
def test_a_part_of_what_is_passed_on_through_two_calls(clip: str, lines: list[int]) -> None:
    report = check_file("x.py", NETS.format(clip).encode(), Settings(codes=frozenset({"CLIP117"})))
    assert report.errors == ()
    assert [finding.place.line for finding in report.findings] == lines


TRAINER = """\
import torch

def clip(net):
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)

class A:
    def __init__(self):
        self.a = torch.optim.SGD(self.m.parameters())
        self.b = torch.optim.SGD(self.n.head.parameters())

    def clip_given(self, net):
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)

    def clip_own(self):
        torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.0)

    def clip_another(self):
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)

    def run(self, loss, other):
        def clip_nested():
            torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.0)

        {}
        self.{}.step()
"""


@pytest.mark.parametrize(
    ("call", "optimizer", "expected"),
    [
        ("clip(made())", "a", None),
        ("clip(other)", "a", None),
        ("self.clip_another()", "a", None),
        ("self.clip_given(self.m)", "a", True),
        ("self.clip_given(self.m)", "b", False),
        ("clip(self.m.head)", "a", True),
        ("clip(self.n)", "b", True),
        ("clip(self.n.head)", "b", True),
        ("clip(self.n.header)", "b", False),
        ("clip(self.k)", "b", False),
        ("self.clip_own()", "a", True),
        ("self.clip_own()", "b", False),
        ("clip_nested()", "a", True),
        ("clip_nested()", "b", False),
    ],
)
def test_whether_a_step_uses_what_a_function_clips(call: str, optimizer: str, expected: bool | None) -> None:
    source = Source(TRAINER.replace("{}", call, 1).replace("{}", optimizer))
    run = next(node for node in source.nodes(cst.FunctionDef) if node.name.value == "run")
    (clip,), (step,) = (flow(source, run).of(kind) for kind in (EventKind.CLIP, EventKind.STEP))
    assert is_for(source, clip, step) is expected
