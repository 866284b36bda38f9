"""A look-alike that a rule passes by does not keep it from what comes after it in the same file, and one mistake is found once."""

from __future__ import annotations

import pytest
from test_rules_in_detail import LOCAL, NORMS, READ, TOTAL, f, found, loop
from test_rules_of_places import LIGHTNING, SHARDED

CLIP = "clip_grad_norm_(model.parameters(), 1.0)"
OWN = "clip_grad_norm_(self.parameters(), 1.0)"
ACCELERATED = "accelerator.backward(loss)\n{}\nS"
BOTH_KINDS = f(
    "if x:\n    accelerator.clip_grad_norm_(ps, 1.0)\nelse:\n    clip_grad_norm_(ps, 1.0)", "def both(accelerator, ps):"
)


def methods(*pairs: tuple[str, str], base: str = "L.LightningModule") -> str:
    return f"class M({base}):\n" + "".join(f"    def {name}(self):\n        {body}\n" for name, body in pairs)


ROWS: list[tuple[str, str, list[str]]] = [
    ("CLIP001", f(READ.replace(".item()", "") + READ.replace("total", "t")), ["t += p.grad.norm().item() ** 2"]),
    ("CLIP001", f("assert sum(p.grad.norm().item() ** 2 for p in ps)\nlog(sum(q.grad.norm().item() ** 2 for q in ps))"), ["log(sum(q.grad.norm().item() ** 2 for q in ps))"]),
    ("CLIP004", f(NORMS + "norm /= 2\n" + NORMS.replace("norm ", "x_norm ")), ["x_norm += p.grad.norm().item()"]),
    ("CLIP010", f("log(1)\nfor p in ps:\n    log(p.grad.norm().item())"), ["log(p.grad.norm().item())"]),
    ("CLIP105", f("list(a)\nlist(b)\nclip_grad_norm_(b, 1.0)", "def g(a, b):") + "\ng(x, model.parameters())", ["g(x, model.parameters())"]),
    ("CLIP105", f("clip_grad_norm_(a, 1.0)\nclip_grad_norm_(b, 1.0)", "def g(a, b):") + "\nqs = m.parameters()\nrs = n.parameters()\nlist(qs)\nlist(rs)\ng(qs, rs)", ["g(qs, rs)", "g(qs, rs)"]),
    ("CLIP111", "clip_grad_norm_(max_norm=1.0)\nfor m in models:\n    clip_grad_norm_(m.parameters(), 1.0)", ["clip_grad_norm_(m.parameters(), 1.0)"]),
    ("CLIP111", "def g(ps):\n    clip_grad_norm_(ps, 1.0)\n\nlog(1)\ng(x)\nfor m in models:\n    g(m.parameters())", ["g(m.parameters())"]),
    ("CLIP112", "clip_grad_norm_(chain(m.parameters(), m.parameters(), m.parameters()), 1.0)", ["clip_grad_norm_(chain(m.parameters(), m.parameters(), m.parameters()), 1.0)"]),
    ("CLIP116", loop("if x:\n    B\n    C\n    S\nelif y:\n    B\n    go()\nelse:\n    B\n    S") + "\n" + f("S", "def go():"), [CLIP]),
    ("CLIP201", "with pytest.raises(E):\n    clip_grad_norm_(ps, -1)\nclip_grad_norm_(ps)\nclip_grad_norm_(ps, 0)", ["clip_grad_norm_(ps, 0)"]),
    ("CLIP202", "with pytest.raises(E):\n    clip_grad_norm_(ps)\nclip_grad_norm_(qs)", ["clip_grad_norm_(qs)"]),
    ("CLIP204", "from clipcheck.runtime import get_total_norm as own\nown(ps, clip=1)\nget_total_norm(ps, clip=1)", ["get_total_norm(ps, clip=1)"]),
    ("CLIP207", "from clipcheck.runtime import clip_grad_norm_ as own\ne = nn.Embedding(3, 4, sparse=True)\nown(e.parameters(), 1.0)\nclip_grad_norm_(e.parameters(), 1.0)", ["clip_grad_norm_(e.parameters(), 1.0)"]),
    ("CLIP207", "e = nn.Sequential(nn.Embedding(3, 4, sparse=True), nn.Embedding(3, 4, sparse=True))\nclip_grad_norm_(e.parameters(), 1.0)", ["clip_grad_norm_(e.parameters(), 1.0)"]),
    ("CLIP401", LIGHTNING + methods(("other", OWN)) + methods(("training_step", OWN), base="Other") + methods(("training_step", "opt.step(); " + OWN)) + methods(("training_step", OWN)), [OWN]),
    ("CLIP403", BOTH_KINDS + "\n" + loop(ACCELERATED.format("both(accelerator, ps)")) + "\n" + loop(ACCELERATED.format("C")).replace("def f", "def g"), [CLIP]),
    ("CLIP406", SHARDED + "if rank == 0:\n    if rank == 0:\n        clip_grad_norm_(ps, 1.0)", ["clip_grad_norm_(ps, 1.0)"]),
    ("CLIP410", LIGHTNING + f("C", "def g(model):") + "\n" + methods(("on_train_batch_end", OWN), base="Other") + methods(("on_train_batch_end", OWN)), [OWN]),
    ("CLIP411", loop("B\nclip_grad_norm_(qs, 1.0)\nS\nfabric.backward(loss)\nC\nS"), [CLIP]),
    ("CLIP412", f("a = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\nlog(a)\nreturn " + LOCAL), [f"return {LOCAL}"]),
    ("CLIP414", "def g(ps):\n    if ps:\n        return 1\n    grads = [p.grad for p in ps]\n    if not grads:\n        return 0\n    dist.all_reduce(x)", ["return 0"]),
    ("CLIP501", "a = clip_grad_norm_(ps, math.inf)\nclipped_norm = clip_grad_norm_(ps, 1.0)", ["clipped_norm = clip_grad_norm_(ps, 1.0)"]),
    ("CLIP501", "self.log('clipped_norm', norm)\nnorm = clip_grad_norm_(ps, 1.0)\nself.log('clipped_grad', norm)", ["self.log('clipped_grad', norm)"]),
    ("CLIP503", "clip_grad_norm_(ps, 1.0).item()\n" + loop("clip_grad_norm_(ps, 1.0).tolist()"), ["clip_grad_norm_(ps, 1.0).tolist()"]),
    ("CLIP504", "clip_grad_value_(ps, 1.0)\nn = get_total_norm([p.grad for p in ps])\nclip_grad_norm_(ps, 2.0)", ["n = get_total_norm([p.grad for p in ps])"]),
    ("CLIP504", "n = get_total_norm([p.grad for p in ps])\nlog(1)\nm = get_total_norm([p.grad for p in ps])\nclip_grad_norm_(ps, 2.0)", ["m = get_total_norm([p.grad for p in ps])"]),
    ("CLIP506", loop("S\nrun()") + "\n" + f(f"Z\nlog({TOTAL})", "def run(optimizer, ps):"), [f"log({TOTAL})"]),
    ("CLIP507", f("B\nrun(ps)\nS") + "\n" + f(f"clip_grad_norm_(ps, 1.0)\nlog('grad_norm', {TOTAL})", "def run(ps):"), [f"log('grad_norm', {TOTAL})"]),
    ("CLIP101", loop("Z\nrun()") + "\n" + f("B\nS\nC", "def run():"), [CLIP]),
    ("CLIP508", "np.mean(get_total_norm(gs))\nnp.maximum(1, get_total_norm(gs))", ["np.maximum(1, get_total_norm(gs))"]),
    ("CLIP508", "a = get_total_norm(gs)\nnp.maximum(a, a)", ["np.maximum(a, a)"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "body", "lines"), ROWS)
def test_what_is_found_after_a_look_alike(code: str, body: str, lines: list[str]) -> None:
    assert found(body, code) == lines
