"""The recognizer of gradient norms on small programs: what is found, what is not, and the result of the fix."""

from __future__ import annotations

import textwrap

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Safety, Target
from clipcheck.settings.keys import Settings

HEADER = "import itertools\nimport math\nimport numpy as np\nimport torch\nimport torch as th\nfrom torch import nn\n"
IMPORTS = tuple(HEADER.splitlines())


def report(body: str, *codes: str, fix: bool = False, safety: Safety = Safety.SAFE, target: Target = "clipcheck"):
    text = HEADER + textwrap.dedent(body)
    settings = Settings(codes=frozenset(codes), fix=fix, safety=safety, target=target)
    found = check_file("train.py", text.encode(), settings)
    assert found.errors == ()
    return found


def codes(body: str, *wanted: str) -> list[str]:
    return [finding.code for finding in report(body, *wanted).findings]


def fixed(body: str, *wanted: str, safety: Safety = Safety.SAFE, target: Target = "clipcheck") -> str:
    """The text after the fix, without the imports at the top."""
    outcome = report(body, *wanted, fix=True, safety=safety, target=target)
    lines = (outcome.fixed_data or outcome.data).decode().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("import ", "from "))).strip()


# Each expression is the term of one parameter: its squared L2 norm, read on the host.
SQUARES = [
    "p.grad.data.norm(2).item() ** 2",
    "p.grad.norm().item() ** 2",
    "p.grad.norm(2.0).item() ** 2.0",
    "p.grad.norm(p=2).item() ** 2",
    "p.grad.norm('fro').item() ** 2",
    "p.grad.detach().norm(2).item() ** 2",
    "p.grad.detach().data.norm(2).item() ** 2",
    "p.grad.clone().detach().norm(2).cpu().item() ** 2",
    "torch.norm(p.grad).item() ** 2",
    "th.norm(p.grad.detach(), 2).item() ** 2",
    "torch.linalg.norm(p.grad).item() ** 2",
    "torch.linalg.vector_norm(p.grad, ord=2).item() ** 2",
    "torch.linalg.norm(p.grad.flatten(), 2).item() ** 2",
    "float(p.grad.norm(2)) ** 2",
    "float(p.grad.norm().item() ** 2)",
    "pow(p.grad.norm().item(), 2)",
    "math.pow(p.grad.norm().item(), 2)",
    "math.pow(p.grad.data.norm(), 2)",
    "(p.grad.data.norm(2) ** 2).item()",
    "p.grad.norm().pow(2).item()",
    "torch.square(p.grad.norm()).item()",
    "p.grad.pow(2).sum().item()",
    "(p.grad ** 2).sum().item()",
    "(p.grad * p.grad).sum().item()",
    "p.grad.square().sum().item()",
    "p.grad.abs().pow(2).sum().item()",
    "torch.sum(p.grad ** 2).item()",
    "torch.sum(torch.square(p.grad)).item()",
    "torch.sum(torch.pow(p.grad, 2)).item()",
    "torch.dot(p.grad.flatten(), p.grad.flatten()).item()",
    "p.grad.view(-1).dot(p.grad.view(-1)).item()",
]


@pytest.mark.parametrize("square", SQUARES)
def test_every_notation_for_a_square_gives_the_same_result(square: str) -> None:
    loop = f"""
    def norm(model):
        total = 0.0
        for p in model.parameters():
            total += {square}
        return total ** 0.5
    """
    assert codes(loop, "CLIP001") == ["CLIP001"]
    assert fixed(loop, "CLIP001") == "def norm(model):\n    return grad_norm(model.parameters()).item()"


ROOTS = [
    "total ** 0.5",
    "total ** .5",
    "total ** (1 / 2)",
    "total ** (1. / 2)",
    "math.sqrt(total)",
    "pow(total, 0.5)",
    "math.pow(total, 0.5)",
]


@pytest.mark.parametrize("root", ROOTS)
def test_every_notation_for_a_root_is_removed(root: str) -> None:
    again = f"""
    def norm(model):
        total = 0
        for p in model.parameters():
            if p.grad is not None:
                n = p.grad.norm(2)
                total += n.item() ** 2
        total = {root}
        print("done")
        return total
    """
    assert fixed(again, "CLIP001").startswith(
        "def norm(model):\n    total = grad_norm(model.parameters()).item()\n    print"
    )
    other = f"""
    def norm(model):
        total = 0
        for p in model.parameters():
            total += p.grad.norm(2).item() ** 2
        value = {root}
        return value
    """
    assert (
        fixed(other, "CLIP001")
        == "def norm(model):\n    value = grad_norm(model.parameters()).item()\n    return value"
    )


# Ways to iterate over the parameters, and the argument of the call.
WAYS = [
    ("for p in model.parameters():\n    ADD(p.grad)", "model.parameters()"),
    ("for p in self.params:\n    if p.grad is None:\n        continue\n    ADD(p.grad)", "self.params"),
    ("for p in filter(lambda p: p.requires_grad, model.parameters()):\n    ADD(p.grad)", None),
    ("for _, p in model.named_parameters():\n    if p.grad is not None:\n        ADD(p.grad)", "model.parameters()"),
    ("for p in list(a.parameters()) + list(b.parameters()):\n    ADD(p.grad)", None),
    ("for p in itertools.chain(a.parameters(), b.parameters()):\n    ADD(p.grad)", None),
    (
        "for group in optimizer.param_groups:\n    for p in group['params']:\n        if p.grad is not None:\n            ADD(p.grad)",
        "[p for group in optimizer.param_groups for p in group['params']]",
    ),
    (
        "for n, p in model.named_parameters():\n    if 'bias' not in n and p.grad is not None:\n        ADD(p.grad)",
        "[p for n, p in model.named_parameters() if 'bias' not in n]",
    ),
    (
        "for p in model.parameters():\n    if not p.requires_grad or p.grad is None:\n        continue\n    ADD(p.grad)",
        "[p for p in model.parameters() if p.requires_grad]",
    ),
    ("for p in ps:\n    g = p.grad\n    if g is None:\n        continue\n    ADD(g)", "ps"),
    (
        "for p in ps:\n    if p.grad is not None and p.requires_grad:\n        ADD(p.grad.data)",
        "[p for p in ps if p.requires_grad]",
    ),
    ("for p in ps:\n    if hasattr(p, 'grad') and p.grad is not None:\n        ADD(p.grad)", "ps"),
    ("for i, p in enumerate(ps):\n    ADD(p.grad)", "[p for i, p in enumerate(ps)]"),
    # what is skipped, turned round
    *(
        (f"for p in ps:\n    if {skipped}:\n        continue\n    ADD(p.grad)", f"[p for p in ps if {kept}]")
        for skipped, kept in (
            ("p in old", "p not in old"),
            ("p not in new", "p in new"),
            ("p is first", "p is not first"),
            ("p is not last", "p is last"),
            ("p.ndim < 2", "not (p.ndim < 2)"),
            ("p.ndim == 1", "not (p.ndim == 1)"),
            ("p.is_shared", "not p.is_shared"),
            ("frozen(p)", "not frozen(p)"),
            ("a and b", "not (a and b)"),
        )
    ),
]


@pytest.mark.parametrize(("way", "argument"), WAYS)
def test_every_way_to_iterate_over_parameters_is_kept(way: str, argument: str | None) -> None:
    body = (
        way.replace("ADD(", "total += float(torch.norm(")
        .replace("p.grad)", "p.grad)) ** 2")
        .replace("(g)", "(g)) ** 2")
    )
    body = body.replace("p.grad.data)", "p.grad.data)) ** 2")
    text = "total = 0.0\n" + body + "\nprint(total ** 0.5)\n"
    iterable = argument or way[len("for p in ") : way.index(":\n")]
    after = fixed(text, "CLIP001").replace("(\n    [", "([").replace("]\n)", "])")  # long ones are broken
    assert after == f"total = grad_norm({iterable}).item()\nprint(total)"


# Collections of gradients, known by their origin or by their name.
GRADIENTS = [
    "for g in torch.autograd.grad(loss, ps):\n    total += g.norm().item() ** 2",
    "for grad in grads:\n    total += grad.norm().item() ** 2",
    "for g in self.gradients:\n    total += g.norm().item() ** 2",
    "for _, g in zip(ps, grads):\n    total += g.norm().item() ** 2",
    "for name, g in named_grads.items():\n    total += g.norm().item() ** 2",
    "xs = [p.grad for p in ps]\nfor x in xs:\n    total += x.norm().item() ** 2",
    "xs = {n: p.grad for n, p in named}\nfor x in xs.values():\n    total += x.norm().item() ** 2",
    "xs = tuple(p.grad for p in ps)\nfor i, x in enumerate(xs):\n    total += x.norm().item() ** 2",
    "for p, g in [(p, p.grad) for p in ps]:\n    total += g.norm().item() ** 2",
    "for p in ps:\n    total += safe_get_full_grad(p).norm().item() ** 2",
    "for grad in collect():\n    total += grad.norm().item() ** 2",
]


@pytest.mark.parametrize("loop", GRADIENTS)
def test_gradients_are_known_by_origin_or_name(loop: str) -> None:
    assert codes("total = 0.0\n" + loop + "\n", "CLIP001") == ["CLIP001"]


# Tensors that are not gradients, gradients that are not summed, and numbers that are not norms.
SILENT = [
    "for p in ps:\n    total += p.norm().item() ** 2",
    "for p in ps:\n    total += p.data.norm().item() ** 2",
    "for g in grad_norms:\n    total += g.item() ** 2",
    "for h in hidden:\n    total += h.norm().item() ** 2",
    "for g in per_sample_grads:\n    total += g.norm().item() ** 2",
    "for p in ps:\n    total += p.grad.mean().item() ** 2",
    "for p in ps:\n    total += p.grad.norm(2, dim=0).sum().item() ** 2",
    "for p in ps:\n    total += (p * p.grad).sum().item() ** 2",
    "for p in ps:\n    total += (p.grad - old).norm().item() ** 2",
    "for p in ps:\n    total -= p.grad.norm().item() ** 2",
    "for g in jax.grad(f)(ps):\n    total += g.norm().item() ** 2",
    "for p in ps:\n    norm = p.grad.norm().item() ** 2\n    print(norm)",
    "for p in ps:\n    total += abs(p.grad.norm().item() - 1)",
    "for p in ps:\n    p = p.detach()\n    total += p.weight.norm().item() ** 2",
    "while True:\n    total += weight.grad.norm().item() ** 2",
]


@pytest.mark.parametrize("loop", SILENT)
def test_look_alikes_have_no_findings(loop: str) -> None:
    assert codes("import jax\ntotal = 0.0\n" + loop + "\n", "CLIP001", "CLIP005") == []


@pytest.mark.parametrize(
    ("expression", "after"),
    [
        ("sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5", "grad_norm(ps).item()"),
        ("math.sqrt(sum([p.grad.norm().item() ** 2 for p in ps if p.grad is not None]))", "grad_norm(ps).item()"),
        ("np.sqrt(np.sum([p.grad.norm().item() ** 2 for p in ps]))", "np.float64(grad_norm(ps).item())"),
        ("np.sqrt(sum(p.grad.norm().item() ** 2 for p in ps))", "np.float64(grad_norm(ps).item())"),
        ("sum(float(g.norm()) ** 2 for g in grads)", "get_total_norm(grads).item() ** 2"),
        ("-sum(g.norm().item() ** 2 for g in grads) * 2", "-get_total_norm(grads).item() ** 2 * 2"),
        ("sum(g.norm().item() ** 2 for g in grads).real", "(get_total_norm(grads).item() ** 2).real"),
        ("sum(g.norm().item() ** 2 for g in grads) ** 2", None),
        ("sum(g.norm(3).item() ** 3 for g in grads) ** (1 / 3)", "get_total_norm(grads, 3).item()"),
        ("sum(g.norm(q).item() ** q for g in grads) ** (1.0 / q)", "get_total_norm(grads, q).item()"),
        (
            "sum(g.norm().item() ** 2 for g in grads if g is not None) ** .5",
            "get_total_norm([g for g in grads if g is not None]).item()",
        ),
        (
            "sum(p.grad.double().norm().item() ** 2 for p in ps) ** .5",
            "grad_norm(ps).item()",
        ),
        ("f'{sum(g.norm().item() ** 2 for g in grads) ** 0.5:.3f}'", "f'{get_total_norm(grads).item():.3f}'"),
        ("lambda: sum(g.norm().item() ** 2 for g in grads) ** 0.5", "lambda: get_total_norm(grads).item()"),
    ],
)
def test_expressions(expression: str, after: str | None) -> None:
    text = f"value = {expression}\n"
    assert codes(text, "CLIP001") == ["CLIP001"]
    if after is not None:
        assert fixed(text, "CLIP001") == f"value = {after}"


@pytest.mark.parametrize(
    ("expression", "after"),
    [
        ("torch.norm(torch.stack([torch.norm(p.grad.detach(), 2) for p in ps]), 2)", "grad_norm(ps)"),
        ("torch.norm(torch.stack([p.grad.norm(q).to(dev) for p in ps]), q).item()", "grad_norm(ps, q).item()"),
        ("torch.stack([g.norm() for g in grads]).norm(2)", "get_total_norm(grads)"),
        ("torch.cat([p.grad.view(-1) for p in ps]).norm()", "grad_norm(ps)"),
        ("torch.sqrt(sum((g ** 2).sum() for g in grads))", "get_total_norm(grads)"),
        ("sum(g.norm() ** 2 for g in grads).sqrt()", "get_total_norm(grads)"),
        ("torch.stack([g.norm() ** 2 for g in grads]).sum().sqrt()", "get_total_norm(grads)"),
        ("(torch.stack([g.norm() for g in grads]) ** 2).sum() ** 0.5", "get_total_norm(grads)"),
        ("torch.nn.utils.parameters_to_vector([p.grad for p in ps]).norm()", "grad_norm(ps)"),
    ],
)
def test_expressions_on_the_device(expression: str, after: str) -> None:
    text = f"value = {expression}\n"
    assert codes(text, "CLIP001", "CLIP005") == ["CLIP005"]
    assert fixed(text, "CLIP005", safety=Safety.UNSAFE) == f"value = {after}"
    assert fixed(text, "CLIP005") == text.strip(), "never a safe fix"


def test_a_list_that_is_summed_later() -> None:
    text = """
    def norm(model):
        squares = []
        for p in model.parameters():
            squares.append(p.grad.norm().item() ** 2)
        return sum(squares) ** 0.5
    """
    assert fixed(text, "CLIP001") == "def norm(model):\n    return grad_norm(model.parameters()).item()"
    kept = text.replace("** 0.5", "** 0.5, squares")
    assert codes(kept, "CLIP001") == ["CLIP001"]
    assert fixed(kept, "CLIP001") == textwrap.dedent(kept).strip()


def test_a_value_with_uses_besides_the_root_stays_squared() -> None:
    text = """
    total = 0.0
    for p in ps:
        total += p.grad.norm().item() ** 2
    print(total, total ** 0.5)
    """
    assert fixed(text, "CLIP001") == "total = grad_norm(ps).item() ** 2\nprint(total, total ** 0.5)"


def test_an_accumulator_under_a_condition_keeps_its_zero() -> None:
    text = """
    def norm(ps, wanted):
        total = 0
        if wanted:
            for p in ps:
                total += p.grad.norm().item() ** 2
        return total ** 0.5
    """
    assert "total = 0\n    if wanted:\n        total += grad_norm(ps).item() ** 2\n    return total ** 0.5" in fixed(
        text, "CLIP001"
    )


def test_an_accumulator_over_all_steps_is_added_to() -> None:
    text = """
    total = 0.0
    for batch in batches:
        step(batch)
        for p in ps:
            total += p.grad.norm().item() ** 2
    total = total ** 0.5
    """
    assert "    total += grad_norm(ps).item() ** 2\ntotal = total ** 0.5" in fixed(text, "CLIP001")


def test_global_and_attribute_accumulators_are_added_to() -> None:
    for target, declared in (("total", "global total"), ("self.total", "pass"), ("log['norm']", "pass")):
        text = f"""
        def norm(self, ps, log):
            {declared}
            for p in ps:
                {target} += p.grad.norm().item() ** 2
        """
        assert f"    {target} += grad_norm(ps).item() ** 2" in fixed(text, "CLIP001")


def test_statements_that_only_prepare_a_norm_are_removed() -> None:
    text = """
    def norm(model):
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        return flat.norm().item()
    """
    assert (
        fixed(text, "CLIP005", safety=Safety.UNSAFE)
        == "def norm(model):\n    return grad_norm(model.parameters()).item()"
    )
    away = text.replace("        return", "        step()\n        return")
    assert fixed(away, "CLIP005", safety=Safety.UNSAFE) == textwrap.dedent(away).strip()


def test_comments_survive() -> None:
    text = """
    total = 0.0  # start
    for p in ps:  # all of them
        # one by one
        total += p.grad.norm().item() ** 2  # squared
    total = total ** 0.5  # root
    """
    after = fixed(text, "CLIP001")
    assert all(comment in after for comment in ("# start", "# all of them", "# one by one", "# squared", "# root"))
    assert after.endswith("total = grad_norm(ps).item()")


def test_names_that_are_taken_are_not_shadowed() -> None:
    text = """
    def grad_norm(ps):
        total = 0.0
        for p in ps:
            total += p.grad.norm().item() ** 2
        return total ** 0.5
    """
    assert "return clipcheck.runtime.grad_norm(ps).item()" in fixed(text, "CLIP001")


def test_with_torch_as_the_target_the_fix_is_unsafe_and_uses_gradients() -> None:
    text = "value = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5\n"
    assert fixed(text, "CLIP001", target="torch") == text.strip()
    after = fixed(text, "CLIP001", safety=Safety.UNSAFE, target="torch")
    assert (
        after.replace("\n", "")
        .replace(" ", "")
        .startswith("value=nn.utils.get_total_norm([p.gradforpinpsifp.gradisnotNone]")
    )


def test_sharded_gradients_make_the_fix_unsafe() -> None:
    text = "from torch.distributed.fsdp import fully_shard\nvalue = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5\n"
    assert "p.grad.norm()" in fixed(text, "CLIP001")
    assert "grad_norm(ps).item()" in fixed(text, "CLIP001", safety=Safety.UNSAFE)


def test_the_rest_of_a_loop_stays_and_the_norm_moves_out() -> None:
    text = """
    def norm(model):
        total = 0.0
        count = 0
        for name, p in model.named_parameters():
            if p.grad is not None:
                n = p.grad.data.norm(2)
                total += n.item() ** 2  # squared
            count += 1
            print(name)
        total = total ** 0.5
        return total / count
    """
    after = """
    def norm(model):
        count = 0
        # squared
        total = grad_norm(model.parameters()).item()
        for name, p in model.named_parameters():
            count += 1
            print(name)
        return total / count
    """
    assert fixed(text, "CLIP001") == textwrap.dedent(after).strip()


REFUSED = {
    "is asynchronous": "async def f():\n    total = 0.0\n    async for p in ps:\n        total += p.grad.norm().item() ** 2",
    "its attributes": "class C:\n    total = 0.0\n    for p in ps:\n        total += p.grad.norm().item() ** 2",
    "is a numpy number": "for p in ps:\n    total += np.linalg.norm(p.grad.cpu().numpy()) ** 2",
    "depends on what the loop computes": "for n, p in m.named_parameters():\n    odd = len(n)\n    if odd:\n        continue\n"
    "    total += p.grad.norm().item() ** 2",
    "individual norms are kept": "kept = []\nfor p in ps:\n    kept.append(p.grad.norm().item() ** 2)\nprint(kept)",
    "used after the loop": "for p in ps:\n    n = p.grad.norm()\n    total += n.item() ** 2\nprint(n)",
    "the loop has side effects": "for p in list(ps):\n    total += p.grad.norm().item() ** 2\n    p.grad.zero_()",
    "the loop has side effects ": "for p in list(ps):\n    total += p.grad.norm().item() ** 2\n    p.grad[:] = 0",
    "the loop has side effects  ": "for p in list(ps):\n    total += p.grad.norm().item() ** 2\n    p.grad *= 2",
    "the loop has side effects   ": "for p in list(ps):\n    total += p.grad.norm().item() ** 2\n    p.seen = True",
    "can be read only once": "for p in ps:\n    total += p.grad.norm().item() ** 2\n    count += 1",
    "of each tensor is needed": "for p in m.parameters():\n    n = p.grad.norm()\n    print(n)\n    total += n.item() ** 2",
    "may exit early": "for p in ps:\n    total += p.grad.norm().item() ** 2\n    if total > 9:\n        break",
    "has an `else`": "for p in ps:\n    total += p.grad.norm().item() ** 2\nelse:\n    print(1)",
    "errors in the loop are caught": "for p in ps:\n    try:\n        total += p.grad.norm().item() ** 2\n    except E:\n        pass",
    "is read inside the loop": "for p in ps:\n    if total < 9:\n        total += p.grad.norm().item() ** 2",
    "a matrix norm": "for p in ps:\n    total += torch.linalg.norm(p.grad, 2).item() ** 2",
    "more than one way": "for p in ps:\n    n = p.grad.norm()\n    if odd:\n        n = other(p)\n    total += n.item() ** 2",
    "a different accumulator": "for p in ps:\n    total[p] += p.grad.norm().item() ** 2",
    "reduced over processes": "for p in ps:\n    total += p.grad.norm().item() ** 2\ndist.all_reduce(torch.tensor(total))",
    "does not match": "for p in ps:\n    total += p.grad.norm(1).item() ** 2",
    "earlier iteration": "for p in ps:\n    if p.grad is not None:\n        n = p.grad.norm()\n    total += n.item() ** 2",
}


@pytest.mark.parametrize(("why", "loop"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_rewritten_says_why(why: str, loop: str) -> None:
    (finding,) = report("total = 0.0\ncount = 0\n" + loop + "\n", "CLIP001").findings
    assert finding.fix is None
    assert why.strip() in finding.help


@pytest.mark.parametrize("begins", ["n = ", "n: float = ", "total = ", "return "])
def test_a_root_keeps_the_beginning_of_its_statement(begins: str) -> None:
    text = f"def f(ps):\n    total = 0.0\n    for p in ps:\n        total += p.grad.norm().item() ** 2\n    {begins}total ** 0.5\n"
    assert fixed(text, "CLIP001") == f"def f(ps):\n    {begins}grad_norm(ps).item()"


CLIPS = [
    "norm = torch.sqrt(sum(torch.sum(p.grad ** 2) for p in ps))\nif norm > theta:\n    for p in ps:\n        p.grad[:] *= theta / norm",
    "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\ncoef = theta / (norm + 1e-6)\nif coef < 1:\n    for p in ps:\n        p.grad.data.mul_(coef)",
    "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\ncoef = min(1.0, theta / (norm + 1e-8))\nfor p in ps:\n    p.grad = p.grad * coef",
    "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\ncoef = torch.clamp(theta / (norm + 1e-6), max=1)\nfor p in ps:\n    p.grad.detach().mul_(coef)",
    "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\ncoef = theta / max(norm, theta)\nfor p in ps:\n    p.grad *= coef",
    "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\nif norm > theta:\n    scale = theta / norm\n    for p in ps:\n        if p.grad is not None:\n            p.grad.mul_(scale)",
]


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clip_by_hand_becomes_one_call(clip: str) -> None:
    text = "ps = list(model.parameters())\n" + clip + "\n"
    assert codes(text, "CLIP008", "CLIP009") == ["CLIP008"]
    assert fixed(text, "CLIP008", safety=Safety.UNSAFE) == "ps = list(model.parameters())\nclip_grad_norm_(ps, theta)"
    logged = text + "print(norm)\n"
    assert "norm = clip_grad_norm_(ps, theta)\nprint(norm)" in fixed(logged, "CLIP008", safety=Safety.UNSAFE)
    assert fixed(text, "CLIP008") == text.strip(), "never a safe fix"


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        (CLIPS[0].replace("ps:\n        p.grad[:]", "qs:\n        p.grad[:]"), "clip_grads_with_norm_"),
        (CLIPS[0].replace("norm > theta", "norm > 2 * theta"), "does not compare the norm"),
        (CLIPS[1].replace("    for p", "    count += 1\n    for p"), "something else"),
        (CLIPS[2] + "\nprint(coef)", "used later"),
    ],
)
def test_a_clip_that_differs_from_torchs_is_left(clip: str, why: str) -> None:
    (finding,) = report("count = 0\nps = list(model.parameters())\n" + clip + "\n", "CLIP008").findings
    assert finding.fix is None
    assert why in finding.help


REDUCED = "print(functools.reduce({}, [p.grad.norm({}).item(){} for p in ps]))"


@pytest.mark.parametrize("add", ["operator.add", "np.add", "torch.add"])
def test_a_sum_by_reduce(add: str) -> None:
    body = "import functools\nimport operator\n" + REDUCED.format(add, 2, " ** 2")
    assert "print(grad_norm(ps).item() ** 2)" in fixed(body, "CLIP001")


@pytest.mark.parametrize(
    "body",
    [
        REDUCED.format("max", 2, ""),  # the largest norm is not the norm
        REDUCED.format("min", 2, " ** 2"),
        REDUCED.format("operator.mul", 2, " ** 2"),
        REDUCED.format("operator.add", 2, " ** 2").replace("functools.reduce", "reduce_all"),
        REDUCED.format("operator.add", 2, " ** 2").replace("]))", "], 1.0))"),  # starts from something
    ],
)
def test_what_is_not_a_sum_by_reduce(body: str) -> None:
    body = "import functools\nimport operator\n" + body
    assert body.splitlines()[-1] in fixed(body)


@pytest.mark.parametrize(
    ("way", "argument"),
    [
        ("for g in grads:\n    total += g.norm(2).item() ** 2", "grads"),
        ("for p in ps:\n    total += p.grad.norm(2).item() ** 2", "[p.grad for p in ps if p.grad is not None]"),
        (
            "for p in ps:\n    if p.grad is not None:\n        total += p.grad.norm(2).item() ** 2",
            "[p.grad for p in ps if p.grad is not None]",
        ),
    ],
)
def test_torchs_function_gets_gradients_without_none(way: str, argument: str) -> None:
    after = fixed(f"total = 0.0\n{way}\nprint(total ** 0.5)\n", "CLIP001", safety=Safety.UNSAFE, target="torch")
    assert f"get_total_norm({argument}).item()" in after.replace("(\n    [", "([").replace("]\n)", "])")


@pytest.mark.parametrize(
    "body", ["print(sum(p.grad.norm().item() for p in ps))", "print(sum(p.grad.norm().item() for p in ps) / len(ps))"]
)
def test_a_sum_of_norms_is_not_a_norm(body: str) -> None:
    assert body in fixed(body)
