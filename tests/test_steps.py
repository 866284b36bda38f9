"""The model of the training step: which events a function contains, in which order, and what rules conclude."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from clipcheck.engine.file import check_file
from clipcheck.python.source import Source
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flow, flows

STEP_RULES = frozenset(
    "CLIP003 CLIP101 CLIP102 CLIP103 CLIP104 CLIP105 CLIP106 CLIP107 CLIP108 CLIP109 CLIP110 CLIP201 CLIP202 CLIP301 "
    "CLIP303 CLIP304 CLIP401 CLIP403 CLIP404 CLIP405 CLIP501 CLIP502 CLIP505".split()
)
IMPORTS = "import torch\nfrom torch.nn.utils import clip_grad_norm_, clip_grad_value_\n"


def events(body: str) -> list[Event]:
    """The events of the function `f` with this body."""
    source = Source(IMPORTS + "def f(model, optimizer, batches, loss_fn, scaler):\n" + textwrap.indent(body, "    "))
    return flow_of(source, "f").events


def flow_of(source: Source, name: str) -> Flow:
    return flow(source, next(node for node in source.nodes(cst.FunctionDef) if node.name.value == name))


def kinds(found: list[Event]) -> list[str]:
    return sorted(event.kind.value for event in found)


def codes(text: str) -> list[str]:
    report = check_file("x.py", (IMPORTS + textwrap.dedent(text)).encode(), Settings(codes=STEP_RULES))
    assert report.errors == ()
    return [finding.code for finding in report.findings]


def fixed(text: str, code: str) -> str:
    settings = Settings(codes=frozenset({code}), fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", text.encode(), settings)
    assert report.errors == ()
    return (report.fixed_data or report.data).decode()


# --- the events of one line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("loss.backward()", "backward"),
        ("scaler.scale(loss).backward()", "backward"),
        ("torch.autograd.backward([loss])", "backward"),
        ("accelerator.backward(loss)", "backward"),
        ("self.manual_backward(loss)", "backward"),
        ("scaler.unscale_(optimizer)", "unscale"),
        ("accelerator.unscale_gradients()", "unscale"),
        ("clip_grad_norm_(model.parameters(), 1.0)", "clip"),
        ("torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)", "clip"),
        ("clip_grad_value_(model.parameters(), 1.0)", "clip"),
        ("accelerator.clip_grad_norm_(model.parameters(), 1.0)", "clip"),
        ("fabric.clip_gradients(model, optimizer, max_norm=1.0)", "clip"),
        ("optimizer.step()", "step"),
        ("self.opt_g.step()", "step"),
        ("scaler.step(optimizer)", "step"),
        ("xm.optimizer_step(optimizer)", "step"),
        ("optimizer.zero_grad(set_to_none=True)", "zero_grad"),
        ("model.zero_grad()", "zero_grad"),
        ("p.grad = None", "zero_grad"),
        ("p.grad.zero_()", "zero_grad"),
        ("scaler.update()", "update"),
        ("p.grad /= scale", "edit"),
        ("p.grad.data.div_(scale)", "edit"),
        ("p.grad = p.grad / scale", "edit"),
        ("engine.train_step(model)", "unknown"),
        ("prepare(optimizer)", "unknown"),
        ("prepare(self.optimizer)", "unknown"),
        ("prepare(scaler)", "unknown"),
        ("training_round(model)", "unknown"),
        ("thing.step()", "unknown"),
    ],
)
def test_a_line_is_one_event(line: str, kind: str) -> None:
    assert kinds(events(line)) == [kind]


@pytest.mark.parametrize(
    "line",
    [
        "scheduler.step()",
        "lr_scheduler.step(metric)",
        "profiler.step()",
        "env.step(action)",
        "progress_bar.update()",
        "metrics.update(loss)",
        "optimizer.state_dict()",
        "model.train()",
        "adjust_learning_rate(optimizer, epoch)",
        "p.data.clamp_(-1, 1)",
        "print(loss.item())",
    ],
)
def test_a_line_that_does_not_affect_the_gradients(line: str) -> None:
    source = Source(IMPORTS + f"def f(model, optimizer):\n    {line}\n")
    assert flow_of(source, "f").events == []
    assert [list(flows(source, kind)) for kind in EventKind] == [[] for _ in EventKind]


@pytest.mark.parametrize(
    ("line", "wrapper"),
    [
        ("optimizer.step()", ""),
        ("clip_grad_norm_(model.parameters(), 1.0)", ""),
        ("loss.backward()", ""),
        ("engine.step()", "engine"),
        ("xm.optimizer_step(optimizer)", "xm"),
        ("accelerator.backward(loss)", "accelerator"),
        ("accelerator.clip_grad_norm_(model.parameters(), 1.0)", "accelerator"),
        ("fabric.clip_gradients(model, optimizer, max_norm=1.0)", "fabric"),
        ("model.clip_grad_norm_(1.0)", "own"),
    ],
)
def test_the_object_that_a_line_goes_through(line: str, wrapper: str) -> None:
    (event,) = events(line)
    assert event.wrapper == wrapper


# --- the order of events --------------------------------------------------------------------------------------------


def test_the_end_of_an_iteration_leads_to_the_next_one() -> None:
    zero, backward, step = events(
        "for inputs, targets in batches:\n"
        "    optimizer.zero_grad()\n"
        "    loss_fn(model(inputs), targets).backward()\n"
        "    optimizer.step()\n"
    )
    assert kinds(zero.first_before(EventKind.STEP, EventKind.BACKWARD)) == ["start", "step"]
    assert kinds(step.first_after(EventKind.BACKWARD)) == ["backward", "end"]
    assert backward.first_after(EventKind.STEP, EventKind.ZERO_GRAD) == [step]


def test_branches_exclude_each_other() -> None:
    found = events("if fast:\n    optimizer.step()\nelse:\n    clip_grad_norm_(model.parameters(), 1.0)\n")
    clip = next(event for event in found if event.kind is EventKind.CLIP)
    assert kinds(clip.first_before(EventKind.STEP)) == ["start"]
    assert kinds(clip.first_after(EventKind.STEP)) == ["end"]


def test_two_tests_of_the_same_value_have_the_same_outcome() -> None:
    found = events(
        "if use_amp:\n"
        "    scaler.scale(loss).backward()\n"
        "else:\n"
        "    loss.backward()\n"
        "if not use_amp:\n"
        "    clip_grad_norm_(model.parameters(), 1.0)\n"
    )
    clip = found[-1]
    assert [event.scaler for event in clip.first_before(EventKind.BACKWARD)] == [None]


def test_a_test_that_changes_in_the_loop_says_nothing() -> None:
    found = events(
        "for index, batch in enumerate(batches):\n"
        "    first = index == 0\n"
        "    if first:\n"
        "        loss.backward()\n"
        "    if not first:\n"
        "        clip_grad_norm_(model.parameters(), 1.0)\n"
    )
    assert kinds(found[-1].first_before(EventKind.BACKWARD)) == ["backward", "start"]


@pytest.mark.parametrize("leave", ["return", "raise ValueError", "continue", "break"])
def test_code_after_an_exit_is_not_reached_from_it(leave: str) -> None:
    found = events(
        "for batch in batches:\n"
        "    if batch.bad:\n"
        "        loss.backward()\n"
        f"        {leave}\n"
        "    clip_grad_norm_(model.parameters(), 1.0)\n"
        "    optimizer.zero_grad()\n"
    )
    clip = next(event for event in found if event.kind is EventKind.CLIP)
    expected = ["backward", "start", "zero_grad"] if leave == "continue" else ["start", "zero_grad"]
    assert kinds(clip.first_before(EventKind.BACKWARD, EventKind.ZERO_GRAD)) == expected


def test_an_exception_may_leave_a_try_anywhere() -> None:
    found = events(
        "try:\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "except RuntimeError:\n"
        "    clip_grad_norm_(model.parameters(), 1.0)\n"
    )
    clip = found[-1]
    assert kinds(clip.first_before(EventKind.BACKWARD, EventKind.STEP)) == ["backward", "start", "step"]


def test_local_functions_are_followed() -> None:
    source = Source(
        IMPORTS
        + textwrap.dedent(
            """
            def update(loss, optimizer):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            class Trainer:
                def clip(self):
                    clip_grad_norm_(self.model.parameters(), 1.0)

                def fit(self, batches):
                    for loss in batches:
                        update(loss, self.optimizer)
                        self.clip()
            """
        )
    )
    fit = flow_of(source, "fit")
    assert fit in flows(source, EventKind.CLIP)
    assert [event.kind.value for event in fit.events] == ["zero_grad", "backward", "step", "clip"]
    assert all(event.is_called for event in fit.events)


def test_a_recursive_function_terminates() -> None:
    found = events("loss.backward()\nf(model, optimizer, batches, loss_fn, scaler)\n")
    assert kinds(found) == ["backward", "unknown"]


def test_many_branches_in_a_row_are_cheap() -> None:
    """Paths that meet again are merged: sixty branches are not 2 ** 60 paths."""
    body = "".join(f"if a{n}:\n    print({n})\n" for n in range(60))
    found = events("loss.backward()\n" + body + "clip_grad_norm_(model.parameters(), 1.0)\n")
    assert kinds(found[-1].first_before(EventKind.BACKWARD)) == ["backward"]


# --- what rules conclude --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            """
            def f(model, optimizer, batches, loss_fn):
                for x, y in batches:
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    with record("step"):
                        optimizer.step()
                    if x is not None:
                        clip_grad_norm_(model.parameters(), 1.0)
            """,
            ["CLIP101"],
            id="the step in a with block",
        ),
        pytest.param(
            """
            for x, y in batches:
                optimizer.zero_grad(); loss_fn(model(x), y).backward(); optimizer.step()
                clip_grad_norm_(model.parameters(), 1.0)
            """,
            ["CLIP101"],
            id="a script, several statements on a line",
        ),
        pytest.param(
            """
            def f(model, batches, loss_fn):
                actor_opt = torch.optim.Adam(model.actor.parameters())
                critic_opt = torch.optim.Adam(model.critic.parameters())
                for x, y in batches:
                    actor_opt.zero_grad(); critic_opt.zero_grad()
                    loss_fn(model(x), y).backward()
                    actor_opt.step()
                    critic_opt.step()
                    clip_grad_norm_(model.critic.parameters(), 1.0)
            """,
            ["CLIP101"],
            id="two optimizers, both have stepped",
        ),
        pytest.param(
            """
            def f(self, model, optimizer, x):
                self.trainer.optimizer_zero_grad()
                if self.ready:
                    optimizer.step()
                clip_grad_norm_(model.parameters(), 1.0)
                self.loss(x).backward()
                optimizer.step()
            """,
            [],
            id="perhaps a step of the iteration before",
        ),
        pytest.param(
            """
            def f(model, optimizer, batches, loss_fn):
                params = model.parameters()
                alias = params
                optimizer = torch.optim.Adam([{"params": params, "lr": 0.1}])
                for x, y in batches:
                    loss_fn(model(x), y).backward()
                    clip_grad_norm_(alias, 1.0)
                    optimizer.step()
            """,
            ["CLIP105"],
            id="an alias of an iterator",
        ),
        pytest.param(
            """
            def f(model, batches, loss_fn, optimizer):
                for x, y in batches:
                    loss_fn(model(x), y).backward()
                    params = model.parameters()
                    clip_grad_value_(params, 0.1)
                    clip_grad_norm_(params, 1.0)
                    optimizer.step()
            """,
            ["CLIP105"],
            id="two clips of one iterator",
        ),
        pytest.param(
            """
            params = filter(lambda p: p.requires_grad, model.parameters())
            optimizer = torch.optim.Adam(params)

            def train(batches):
                for loss in batches:
                    loss.backward()
                    clip_grad_norm_(params, 1.0)
                    optimizer.step()
            """,
            ["CLIP105"],
            id="an iterator of the module, used in a function",
        ),
        pytest.param(
            """
            def f(model, batches, optimizer, freeze):
                if freeze:
                    params = filter(lambda p: p.requires_grad, model.parameters())
                else:
                    params = list(model.parameters())
                for loss in batches:
                    loss.backward()
                    clip_grad_norm_(params, 1.0)
                    optimizer.step()
            """,
            [],
            id="an iterator in one branch only",
        ),
        pytest.param(
            """
            def f(model, loss, optimizer):
                params = model.parameters()
                while True:
                    loss.backward()
                    clip_grad_norm_(params, 1.0)
                    break
                optimizer.step()
            """,
            [],
            id="a loop that runs once",
        ),
        pytest.param(
            """
            def f(model, optimizer, loss, scaler):
                scaled = scaler.scale(loss)
                scaled.backward()
                clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
            """,
            ["CLIP301"],
            id="a scaled loss under a separate name",
        ),
        pytest.param(
            """
            def f(model, optimizer, loss, loss_scaler):
                loss_scaler(loss, optimizer, parameters=model.parameters())
                clip_grad_norm_(model.parameters(), 1.0)
            """,
            [],
            id="a scaler that does it all",
        ),
        pytest.param(
            """
            def f(self, model, batches, optimizer):
                for i, loss in enumerate(batches):
                    loss.backward()
                    clip_grad_norm_(model.parameters(), 1.0)
                    if (i + 1) % self.args.accumulate == 0 or i + 1 == len(batches):
                        optimizer.step()
                        optimizer.zero_grad()
            """,
            ["CLIP108"],
            id="a guard with a second condition",
        ),
        pytest.param(
            """
            def f(p, xs):
                total = clip_grad_norm_(p, 1.0)
                clipped = total > 1.0
                norm_clipped_count = int(clipped)
                return norm_clipped_count
            """,
            [],
            id="names that mention clipping without being the result",
        ),
    ],
)
def test_programs(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


def test_the_message_names_the_other_line_and_shows_it() -> None:
    text = IMPORTS + textwrap.dedent(
        """
        def f(model, optimizer, loss):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clip_grad_norm_(model.parameters(), 1.0)
        """
    )
    (finding,) = check_file("x.py", text.encode(), Settings(codes=STEP_RULES)).findings
    assert "`optimizer.step()` on line 7" in finding.message
    assert [place.line for place, _ in finding.related] == [7]


def test_a_move_keeps_comments_line_ends_and_indentation() -> None:
    text = (
        "import torch\r\n"
        "def f(model, optimizer, loss):\r\n"
        "\toptimizer.zero_grad()\r\n"
        "\tloss.backward()\r\n"
        "\toptimizer.step()  # done\r\n"
        "\t# é: bound the norm\r\n"
        "\ttorch.nn.utils.clip_grad_norm_(  # both\r\n"
        "\t\tmodel.parameters(), 1.0\r\n"
        "\t)  # end"
    )
    assert fixed(text, "CLIP101") == (
        "import torch\r\n"
        "def f(model, optimizer, loss):\r\n"
        "\toptimizer.zero_grad()\r\n"
        "\tloss.backward()\r\n"
        "\t# é: bound the norm\r\n"
        "\ttorch.nn.utils.clip_grad_norm_(  # both\r\n"
        "\t\tmodel.parameters(), 1.0\r\n"
        "\t)  # end\r\n"
        "\toptimizer.step()  # done\r\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "optimizer.step(); clip_grad_norm_(model.parameters(), 1.0)",
        "optimizer.step()\n    limit = 1.0\n    clip_grad_norm_(model.parameters(), limit)",
        "norm = 0.0\n    optimizer.step()\n    print(norm)\n    norm = clip_grad_norm_(model.parameters(), 1.0)",
    ],
)
def test_a_move_that_would_change_more_is_not_offered(line: str) -> None:
    text = IMPORTS + f"def f(model, optimizer, loss):\n    optimizer.zero_grad()\n    loss.backward()\n    {line}\n"
    assert fixed(text, "CLIP101") == text
    assert codes(text) == ["CLIP101"]
