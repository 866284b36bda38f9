"""The rules about the order of the training step, on short programs. Silent cases first.

The programs are written in the short names of `abbreviated`. Each is the body of a training loop, unless it says otherwise.
"""

from __future__ import annotations

import re
import textwrap

import pytest
from abbreviated import written

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = "import torch  # noqa\nfrom torch.nn.utils import clip_grad_norm_  # noqa\n"
LOOP = "def f(model, optimizer, scaler, loss, xs, accelerator, fabric, amp):\n    for i, x in enumerate(xs):\n"


def program(body: str) -> str:
    """The body in a training loop; code with `def`, `class` or `import` is used as it is."""
    if re.search(r"^(def|class|import|from) ", body, re.MULTILINE):
        return HEAD + written(textwrap.dedent(body)) + "\n"
    return HEAD + LOOP + textwrap.indent(written(body), " " * 8) + "\n"


def check(body: str, code: str, fix: bool = False) -> FileReport:
    settings = Settings(codes=frozenset({code}), fix=fix, safety=Safety.UNSAFE)
    report = check_file("x.py", program(body).encode(), settings)
    assert report.errors == ()
    return report


SILENT = {
    # clips after the step
    "CLIP101": [
        "for y in x:\n    Z\n    B\nC\nS",
        "for y in x:\n    Z\n    B\n    S\nprepare(optimizer)\nC",
        "for y in x:\n    Z\n    B\nfor z in x:\n    S\nC\nS",
        "Z; B; C; S",
        "Z\nB\nif x:\n    S\nC",
        "B\nS\nC\nS",  # a second step uses it
        "B\nS\np.grad.mul_(2)\nC",
        "B\nS\nprepare(optimizer)\nC",
        "Z\nB\nS\nclip_grad_norm_(model.parameters(), float('inf'))",  # measures
        "Z\nB\nS\nnorm = clip_grad_norm_(model.parameters(), max_norm=torch.inf)",
        "S\nC",  # no backward
        "def f(model, optimizer):\n    S\n    C",
        "Z\nB\nS\nC\nprepare(optimizer)",
        "Z\nB\nS\nC\nif x:\n    S",
        "def f(model, loss, xs):\n    optimizer = torch.optim.SGD(model.parameters())\n    for x in xs:\n        Z\n        B\n        S\n        B\n        C",
        # a loop that may not step, or steps something other than what it goes through
        "Z\nB\nwhile optimizers:\n    S\nC",
        "Z\nB\nfor other in optimizers:\n    S\nC",
        "Z\nB\nif x:\n    train_step(x)\nfor optimizer in optimizers:\n    S\nC",
    ],
    # clips before backward
    "CLIP102": [
        "B; C; S",
        "B\nC\nB\nS",  # clips the first of two
        "C\nS",
        "p.grad.mul_(2)\nC\nB\nS",
        "prepare(optimizer)\nC\nB\nS",
        "Z\nC\nif x:\n    B\nelse:\n    S",
        "Z\nif x:\n    S\nC\nB\nS",
        "Z\nC\nfor y in x:\n    B\nS",  # in another loop
        "Z\nB\nS\nC",
        "def closure():\n    B\n    return loss\ndef f(xs):\n    for x in xs:\n        Z\n        C\n        optimizer.step(closure)",
    ],
    "CLIP103": [
        "B\nC\nS",
        "def f(loss, model, optimizer, xs):\n    C\n    B\n    S",  # no loop
        "def f(loss, model, optimizer, xs):\n    B\n    C\n    for x in xs:\n        B",
        "def f(loss, model, optimizer, xs):\n    C\n    S\n    for x in xs:\n        B",
        "def f(loss, model, optimizer, xs):\n    prepare(optimizer)\n    C\n    for x in xs:\n        B",
        "def f(loss, model, optimizer, xs):\n    for x in xs:\n        C\n        B",
        "def f(loss, model, optimizer, xs):\n    C\n    for x in xs:\n        print(x)",
        "def f(loss, model, optimizer, xs):\n    if xs:\n        B\n    C\n    for x in xs:\n        B",
        "def f(loss, model, optimizer, xs):\n    C\n    if xs:\n        B\n    for x in xs:\n        B",
        "def f(loss, model, optimizer, xs):\n    C\n    if xs:\n        train_step(xs)\n    for x in xs:\n        B",
        "def f(loss, model, optimizer, xs):\n    C\n    run()\ndef run():\n    B",
    ],
    "CLIP104": [
        "Z; B; S",
        "B; S; Z",
        "B\nmodel.zero_grad()\nS",  # a module's need not be the optimizer's
        "B\nother.zero_grad()\nS",
        "B\nZ\nB\nS",
        "B\nZ\np.grad = x\nS",
        "B\nZ\nprepare(optimizer)\nS",
        "B\np.grad = None\nS",
        "B\nopt_g.zero_grad()\nopt_g.step()\nopt_d.step()",
        # on purpose: something that the training found out decides
        "B\nC\nif other:\n    Z\nS",
        "B\nnorm = C\nif not torch.isfinite(norm):\n    Z\nS",
        "B\nnorm = C\nif not torch.isfinite(norm):\n    Z\n    S",
        "B\nnorm = C\nif torch.isfinite(norm):\n    print(norm)\nelse:\n    Z\nS",
        "B\nnorm = C\nif torch.isfinite(norm):\n    pass\nelif x:\n    Z\nS",
        "B\nnorm = C\nx = Z if norm > 9 else None\nS",
        "B\nnorm = C\nnorm > 9 and Z\nS",
        "B\ntry:\n    C\nexcept RuntimeError:\n    Z\nS",
        "B\nskip(C)\nS\ndef skip(norm):\n    if not torch.isfinite(norm):\n        Z",
        "B\nskip(C)\nS\ndef skip(norm):\n    if torch.isfinite(norm):\n        return\n    Z",
        # a module's, of which the optimizer has another part, or nothing
        "noise = torch.optim.SGD([x])\nB\nmodel.zero_grad()\nnoise.step()",
        "def f(model, head, loss, xs):\n    optimizer = torch.optim.SGD(head.parameters())\n    for x in xs:\n        B\n        model.zero_grad()\n        S",
        "def f(model, loss, xs):\n    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()])\n    for x in xs:\n        B\n        model.zero_grad()\n        S",
        "B\nx and clear()\nS\ndef clear():\n    Z",
        "if x:\n    prepare(optimizer)\nelse:\n    B\nZ\nS",
        # for each micro-batch, but of another optimizer, or nobody knows when
        "other.zero_grad()\nB\nC\nif i % 4 == 0:\n    S",
        "Z\nB\nif x:\n    prepare(optimizer)\nif i % 4 == 0:\n    S",
        "Z\nif x:\n    prepare(optimizer)\nB\nif i % 4 == 0:\n    S",
        "if x:\n    Z\nB\nC\nif i % 4 == 0:\n    S",
        "x and Z\nB\nC\nif i % 4 == 0:\n    S",
        "S\nfor y in x:\n    Z\n    B",
        # for each micro-batch, but so is the step, or backward comes once in several as well
        "Z\nB\nC\nS\nif i % 4 == 0:\n    print(i)",
        "Z\nif i % 4 == 0:\n    B\n    C\n    S",
        "Z\nB\nC\nif x:\n    S",
        "if i % 4 == 0:\n    Z\nB\nC\nif (i + 1) % 4 == 0:\n    S",
        "opt_d.zero_grad()\nB\nopt_d.step()\nif i % 4 == 0:\n    opt_g.step()",
    ],
    # one branch clips
    "CLIP116": [
        "if amp:\n    SB\n    U\n    C\n    SS\n    UP\nelse:\n    B\n    C\n    S",
        "B\nC\nif x:\n    S\nelse:\n    optimizer.step(x)",
        "B\nif x:\n    C\n    S\nelse:\n    S",  # the same gradients, on purpose
        "if x:\n    B\n    C\n    S",
        "if x:\n    B\n    C\n    S\nelse:\n    B\n    opt_g.step()",
        "if x:\n    B\n    C\n    S\nB\nS",  # one after the other
        "if x:\n    B\n    S\nB\nC\nS",
        "if clip_grad:\n    B\n    C\n    S\nelse:\n    B\n    S",
        "if x and do_clip:\n    B\n    C\n    S\nelse:\n    B\n    S",
        "if x:\n    B\n    C\n    if y:\n        S\n    else:\n        opt_g.step()\nelse:\n    B\n    S",
        "if limit:\n    B\n    clip_grad_norm_(ps, limit)\n    S\nelse:\n    B\n    S",
        "if x:\n    B\n    C\n    S\nelse:\n    B\n    p.grad.clamp_(-1, 1)\n    S",
        "if x:\n    B\n    C\n    S\nelse:\n    B\n    prepare(optimizer)\n    S",
        "if x:\n    B\n    C\n    S\nelse:\n    B\n    finish()\ndef finish():\n    S",
        "if x:\n    B\n    finish()\nelse:\n    B\n    S\ndef finish():\n    C\n    S",
    ],
    # accumulation
    "CLIP108": [
        "Z; B; C; S",
        "B\nif (i + 1) % 4 == 0:\n    C\n    S\n    Z",
        "B\nC\nif x:\n    S",  # a test that counts nothing
        "B\nC\nif i % 4:\n    print(x)\nS",
        "B\nC\nif x:\n    S\n    Z\nif i % 4 == 0:\n    S\n    Z",  # and at other times
        "B\nC\nS\nif (i + 1) % 4 == 0:\n    Z",
        "Z\nB\nC\nif i % 4 == 0:\n    S",  # zeroed each time
        "import opacus\ndef f(model, optimizer, loss, xs):\n    for i, x in enumerate(xs):\n        B\n        C\n        if i % 4 == 0:\n            S\n            Z",
        "with accelerator.accumulate(model):\n    B\n    if accelerator.sync_gradients:\n        C\n    S\n    Z",
        "with accelerator.autocast():\n    B\n    C\n    S",
        # the guard is in the helper, in the caller, or leaves before the clip
        "B\ng(i)\nif i % 4 == 0:\n    S\n    Z\ndef g(n):\n    if n % 4 == 0:\n        C",
        "def f(model, accelerator, optimizer, loss, xs):\n    for x in xs:\n        with accelerator.accumulate(model):\n            g()\n    def g():\n        B\n        if accelerator.sync_gradients:\n            C\n        S\n        Z",
        "def f(model, accelerator, optimizer, loss, xs):\n    def g():\n        C\n    for x in xs:\n        with accelerator.accumulate(model):\n            B\n            if accelerator.sync_gradients:\n                g()\n            S\n            Z",
        "with accelerator.accumulate(model):\n    B\n    if not accelerator.sync_gradients:\n        continue\n    C\n    S\n    Z",
        "B\nif i % 4:\n    continue\nC\nS\nZ",
        "due = tell(i)\nB\nif due:\n    C\nif i % 4 == 0:\n    S\n    Z",  # what `due` says is not known
        # a loop over micro-batches: it ends after the first one, nothing ever steps, or gradients are changed by hand as well
        "for y in x:\n    B\n    C\n    break\nS",
        "while True:\n    for y in x:\n        B\n        C",
        "for y in x:\n    B\n    p.grad.mul_(0.5)\n    C\nS\nZ",
        # averaged by hand, or stepped, under no_sync
        "with model.no_sync():\n    B\n    C\n    p.grad.div_(2)\nS\nZ",
        "with model.no_sync():\n    B\n    C\n    S\n    Z",
        "if i % 4:\n    with model.no_sync():\n        B\nelse:\n    B\n    C\n    S\n    Z",
    ],
    # mixed precision
    "CLIP301": [
        "SB; U; C; SS; UP",
        "Z; B; C; S",
        "SB\nif x:\n    U\nC\nSS",
        "SB\np.grad.div_(scale)\nC\nSS",
        "SB\nprepare(optimizer)\nC\nSS",
        "SB\nclip_grad_norm_(model.parameters(), 1.0 * scaler.get_scale())\nSS",
        "limit = scale * 1.0\nSB\nclip_grad_norm_(model.parameters(), limit)\nSS",
        "SB\nSS\nUP",
        "SB\naccelerator.clip_grad_norm_(model.parameters(), 1.0)\nSS",
        "def f(model, loss, optimizer):\n    scaler = torch.amp.GradScaler(enabled=False)\n    SB\n    C\n    SS",
        "def f(model, loss, optimizer):\n    scaler = Plain()\n    SB\n    C\n    SS",
        "SB\nmodel.clip_grad_norm_(1.0)\nSS",  # it may be anything's method
        "def f(net, loss, optimizer):\n    scaler = ShardedGradScaler()\n    SB\n    other.clip_grad_norm_(1.0)\n    SS",
        "scalers['d'].scale(loss).backward()\nscalers['d'].unscale_(optimizer)\nC\nscalers['d'].step(optimizer)",
        "scalers.scale(loss).backward()\nC\nscalers.step(optimizer)",
        "loss = scaler.scale(loss)\nloss = net(x)\nB\nC\nS",
        "def run(loss, amp):\n    amp.scale(loss).backward()\n    C\n    amp.step(optimizer)\nrun(loss, other)",
        # the scaled backward is in another function, and something may unscale
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    U\n    C\n    SS",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    C\n    SS\ndef h(scaler, optimizer):\n    U",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    C\n    SS\ndef h(amp):\n    amp.unscale_grads()",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    p.grad.div_(2)\n    C\n    SS",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    C\n    SS\ndef h(p):\n    p.grad.div_(2)",
        "def f(loss):\n    B\ndef g(model, scaler, optimizer):\n    C\n    SS",  # not scaled in this file
        "def f(loss, scaler):\n    SB\ndef g(model, optimizer):\n    C\n    S",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    C",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    prepare(optimizer)\n    C\n    SS",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    C\n    other_scaler.step(optimizer)\ndef h(other_scaler):\n    pass",
        "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    clip_grad_norm_(ps, scaler.get_scale())\n    SS",
    ],
    "CLIP303": [
        "SB\nscaler.unscale_(a)\nscaler.unscale_(b)\nSS",
        "SB\nU\nSS\nUP\nSB\nU\nSS\nUP",
        "SB\nif x:\n    U\nelse:\n    U\nSS\nUP",
        "SB\nif x:\n    U\nif y:\n    U\nSS\nUP",
        "Z\nSB\nfor opt in opts:\n    scaler.unscale_(opt)\nSS\nUP",
        "Z\nfor part in (a, b):\n    SB\n    U\n    SS\n    UP",
        "Z\nSB\nfor part in (a, b):\n    if part:\n        U\n        break\nSS\nUP",
        "Z\nSB\nwhile busy():\n    U\n    SS\n    UP",
        "for i in xs:\n    Z\n    loss = scaler.scale(loss)\n    B\n    U\n    C\n    SS\n    UP",
        "SB\nU\nSS\nUP\nif x:\n    SB\n    U\n    SS\n    UP",
        "SB\nU\nhelper.step_all(optimizer)\nU",
        "SB\nU\nother_scaler.unscale_(optimizer)\nSS",
        "Z\nSB\nU\nif i % 4 == 0:\n    SS\nUP",  # forgotten in each iteration
        "SB; U; C; SS; UP",
        "SB\nif i % 4 == 0:\n    U\n    SS\n    UP\n    Z",
        "SB\nU\nif x:\n    SS",
    ],
    "CLIP304": [
        "SB\nU\nC\nSS",
        "B\nclip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)\nS",
        "SB\nU\nclip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=False)\nSS",
        "SB\nU\nclip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=strict)\nSS",
        "SB\nU\ntry:\n    clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)\nexcept RuntimeError:\n    pass\nSS",
        "SB\nif x:\n    U\nclip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)\nSS",
    ],
    "CLIP308": [
        "SB\nU\nC\nSS\nUP",
        "if x:\n    continue\nSB\nU\nSS\nUP",
        "SB\nU\nif x:\n    UP\n    continue\nSS\nUP",
        "SB\nU\nif x:\n    break\nSS\nUP",
        "SB\nU\nfor y in x:\n    if y:\n        continue\nSS\nUP",
        "if amp:\n    U\nif amp:\n    SS\n    UP\nif x:\n    continue",
        "SB\nU\nSS",
        "SB\nU\nif x:\n    continue\nSS",
        "SB\nU\nif x:\n    continue\nif i % 4 == 0:\n    SS\n    UP\n    Z",
        "if x:\n    SB\n    U\n    SS\n    UP\nelse:\n    continue",
    ],
    # frameworks
    "CLIP403": [
        "accelerator.backward(loss)\naccelerator.clip_grad_norm_(model.parameters(), 1.0)\nS",
        "B; C; S",
        "accelerator.backward(loss)\naccelerator.unscale_gradients()\nC\nS",
        "accelerator.backward(loss)\nS\nC",
        "class Accelerator:\n    pass\ndef f(accelerator, loss, model):\n    accelerator.backward(loss)\n    C",
        "other.backward(loss)\nC\nS",
        "accelerator.backward()\nC\nS",
        "from m import Other\ndef f(model, loss, optimizer):\n    accelerator = Other()\n    accelerator.backward(loss)\n    C\n    S",
    ],
    "CLIP411": [
        "fabric.backward(loss)\nfabric.clip_gradients(model, optimizer, max_norm=1.0)\nS",
        "B; C; S",
        "if x:\n    fabric.backward(loss)\nelse:\n    B\nC\nS",
        "other.backward(loss)\nC\nS",
    ],
    "CLIP306": [
        "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nC\nS",
        "with amp.autocast():\n    B\n    C\nS",
        "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\n    def g():\n        C\nS",
        "with a, amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nC\nS",
    ],
    "CLIP307": [
        "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nC\nS",  # O1
        "level = 'O2'\nwith amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nclip_grad_norm_(amp.master_params(optimizer), 1.0)\nS",
        "level = 'O2'\nB\nC\nS",
        "level = 'O2'\nwith amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nclip_grad_norm_(ps, 1.0)\nS",
        "level = 'O2'\nwith amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\n    C\nS",
        "level = 'O2'\nwith amp.other(loss, optimizer) as scaled:\n    scaled.backward()\nC\nS",
        "level = 'O2'\nwith amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nclip()\nS\ndef clip():\n    C",
        "level = 'O2'\nrun()\nC\nS\ndef run():\n    with amp.scale_loss(loss, optimizer) as scaled:\n        scaled.backward()",
    ],
}


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert check(body, code).findings == ()


# What is found, and the result of the fix; None if no fix is offered.
FOUND: dict[str, list[tuple[str, str | None]]] = {
    "CLIP101": [
        ("for y in x:\n    Z\n    B\n    S\nC", None),  # once an epoch
        ("Z\nB\nfor optimizer in optimizers:\n    S\nC", None),
        ("with amp.autocast():\n    B\n    S\nC", None),
        ("B\nS\naccelerator.clip_grad_norm_(model.parameters(), 1.0)\nZ", None),
        ("B\nS\nclip()\nZ\ndef clip():\n    C", None),
        ("B\ngo()\nC\nZ\ndef go():\n    S", None),
        ("for y in x:\n    for z in y:\n        Z\n        B\n        S\nC", None),
        # the `unscale_` that came too late with the clip goes with it
        ("SB\nSS\nU\nC\nUP\nZ", "SB\nU\nC\nSS\nUP\nZ"),
        ("SB\nSS\nUP\n# why\nU  # there\nC\nZ", "SB\n# why\nU  # there\nC\nSS\nUP\nZ"),
        # not one under a test, nor another optimizer's
        ("SB\nSS\nif x:\n    U\n    C\nUP\nZ", None),
        ("SB\nSS\nscaler.unscale_(other)\nC\nUP\nZ", "SB\nU\nC\nSS\nscaler.unscale_(other)\nUP\nZ"),
        ("SB\nSS\nC\nUP\nZ", "SB\nU\nC\nSS\nUP\nZ"),
        ("SB\nU\nSS\nC\nUP\nZ", "SB\nU\nC\nSS\nUP\nZ"),
        ("Z\nB\nS\nC", "Z\nB\nC\nS"),
        ("B\nS\nC\nZ", "B\nC\nS\nZ"),
        ("Z\nB\nS\nif x:\n    C", "Z\nB\nif x:\n    C\nS"),
        ("Z\nB\nS\n# why\nC  # here", "Z\nB\n# why\nC  # here\nS"),
        ("Z\nB\noptimizer.step(closure)\nC", None),
        ("Z\nSB\nSS\nC", "Z\nSB\nU\nC\nSS"),
        ("Z\nSB\nU\nSS\nC", "Z\nSB\nU\nC\nSS"),
        ("Z\nB\nS\nlimit = x\nclip_grad_norm_(model.parameters(), limit)", None),
        ("Z\nB\nps = optimizer.step()\nclip_grad_norm_(ps, 1.0)", None),
        ("Z\nB\nS\nlimit = clip_grad_norm_(model.parameters(), limit)", "Z\nB\nlimit = clip_grad_norm_(model.parameters(), limit)\nS"),
        ("Z\nB; S\nC", None),
    ],
    "CLIP102": [
        ("Z\nC\nB\nS", "Z\nB\nC\nS"),
        ("C\nB\nS\nZ", "B\nC\nS\nZ"),
        ("Z\nC\nx = g()\nB\nS", "Z\nx = g()\nB\nC\nS"),
        ("Z\nif x:\n    C\nB\nS", "Z\nB\nif x:\n    C\nS"),
        ("import os\nfor x in xs:\n    Z\n    C\n    print(model)\n    B\n    S", "import os\nfor x in xs:\n    Z\n    print(model)\n    B\n    C\n    S"),
        ("Z\nnorm = clip_grad_norm_(model.parameters(), 1.0)\nprint(norm)\nB\nS", None),
        ("Z\nC\nSB\nSS", None),
        ("Z\nC\nif x:\n    B\nelse:\n    B\nS", "Z\nif x:\n    B\nelse:\n    B\nC\nS"),
        ("def f(model, loss):\n    Z\n    C\n    B", "def f(model, loss):\n    Z\n    B\n    C"),
        ("Z\nboth()\nS\ndef both():\n    C\n    B", "Z\nboth()\nS\ndef both():\n    B\n    C"),
        ("Z\nC\nB\nif x:\n    B\nS", None),
        ("Z\naccelerator.clip_grad_norm_(model.parameters(), 1.0)\nB\nS", None),
        ("Z\nclip()\nB\nS\ndef clip():\n    C", None),
        ("Z\nC\nrun()\nS\ndef run():\n    B", None),
        ("Z\nC\nB\nB\nS", None),
    ],
    "CLIP103": [
        ("def f(loss, model, optimizer, xs):\n    C\n    for x in xs:\n        B\n        S", None),
        ("def f(loss, model, optimizer, xs):\n    C\n    for x in xs:\n        run()\ndef run():\n    B", None),
        ("def f(loss, model, optimizer, xs):\n    C\n    run()\ndef run():\n    for x in xs:\n        B", None),
        ("def f(loss, model, optimizer, xs):\n    both()\ndef both():\n    C\n    for x in xs:\n        B", None),
        ("def f(loss, model, optimizer, xs):\n    C\n    while xs:\n        for x in xs:\n            B\n            S", None),
    ],
    "CLIP104": [
        # the optimizer has all of the module's parameters
        ("def f(model, loss, xs):\n    optimizer = torch.optim.SGD(model.parameters())\n    for x in xs:\n        B\n        model.zero_grad()\n        S",
         "def f(model, loss, xs):\n    optimizer = torch.optim.SGD(model.parameters())\n    for x in xs:\n        model.zero_grad()\n        B\n        S"),
        ("def f(model, loss, xs):\n    optimizer = torch.optim.SGD(model.head.parameters())\n    for x in xs:\n        B\n        model.zero_grad()\n        S",
         "def f(model, loss, xs):\n    optimizer = torch.optim.SGD(model.head.parameters())\n    for x in xs:\n        model.zero_grad()\n        B\n        S"),
        # for each micro-batch
        ("Z\nB\nC\nif i % 4 == 0:\n    S", None),
        ("Z\nif x:\n    return\nB\nif i % 4 == 0:\n    S", None),
        ("B\nclear()\nS\ndef clear():\n    Z", None),
        ("run()\nZ\nS\ndef run():\n    B", None),
        ("for p in ps:\n    p.grad = None\nB\nZ\nS", "for p in ps:\n    p.grad = None\nZ\nB\nS"),
        ("Z\nB\nC\nif i % 4:\n    continue\nS", None),
        # a test that is the same for each batch, or counts
        ("B\nif i % 4 == 0:\n    Z\n    C\n    S", None),
        ("if limit:\n    B\n    Z\n    S", "if limit:\n    Z\n    B\n    S"),
        # one that holds for all three alike
        ("if torch.isfinite(loss):\n    B\n    Z\n    S", "if torch.isfinite(loss):\n    Z\n    B\n    S"),
        ("if x:\n    B\n    Z\nS", "if x:\n    Z\n    B\nS"),
        ("B\nZ\nS", "Z\nB\nS"),
        ("B\noptimizer = tell(x)\nZ\nS", None),
        ("B\nif x:\n    print(x)\nZ\nS", "Z\nB\nif x:\n    print(x)\nS"),
        ("B\nC\nZ\nS", "Z\nB\nC\nS"),
    ],
    "CLIP108": [
        ("B\nC\nif (i + 1) % 4 == 0:\n    S\n    Z", "B\nif (i + 1) % 4 == 0:\n    C\n    S\n    Z"),
        ("accumulated = tell(i)\nB\nC\nif accumulated:\n    S\n    Z", "accumulated = tell(i)\nB\nif accumulated:\n    C\n    S\n    Z"),
        ("B\nC\nif i % 4 == 0:\n    print(x)\n    S\n    Z", "B\nif i % 4 == 0:\n    print(x)\n    C\n    S\n    Z"),
        ("SB\nU\nC\nif i % 4 == 0:\n    SS\n    UP\n    Z", "SB\nif i % 4 == 0:\n    U\n    C\n    SS\n    UP\n    Z"),
        ("B\nnorm = clip_grad_norm_(model.parameters(), 1.0)\nif i % 4 == 0:\n    S\n    Z\nprint(norm)", None),
        ("with accelerator.accumulate(model):\n    B\n    C\n    S\n    Z", None),
        # beside a test that has nothing to do with it
        ("with accelerator.accumulate(model):\n    B\n    if i > 100:\n        C\n    S\n    Z", None),
        ("with accelerator.accumulate(model):\n    B\n    if accum_steps > 1:\n        C\n    S\n    Z", None),
        ("if accum > 1:\n    B\n    C\n    if i % accum == 0:\n        S\n        Z", "if accum > 1:\n    B\n    if i % accum == 0:\n        C\n        S\n        Z"),
        ("B\nC\nif i % 4:\n    continue\nS\nZ", None),
        ("if i % 4:\n    with model.no_sync():\n        B\n        C\nelse:\n    B\n    C\n    S\n    Z", None),
        ("if i % 4:\n    B\n    C\nelse:\n    B\n    C\n    S\n    Z", None),
        ("with model.no_sync():\n    B\n    C\nif done:\n    break", None),
    ],
    "CLIP116": [
        ("if amp:\n    SB\n    U\n    C\n    SS\n    UP\nelse:\n    B\n    S", None),
        ("if amp:\n    SB\nelse:\n    B\nif amp:\n    U\n    C\n    SS\nelse:\n    S", None),
        ("if x:\n    B\n    C\n    S\nelse:\n    B\n    S", None),
        ("if self.amp:\n    B\n    clip_grad_norm_(ps, self.limit)\n    S\nelse:\n    B\n    S", None),
        ("if amp is None:\n    B\n    clip_grad_norm_(ps, 1.0, foreach=None)\n    S\nelse:\n    B\n    S", None),
        ("if x:\n    B\n    C\n    S\n    continue\nB\nS", None),
        ("if x:\n    B\n    S\n    continue\nB\nC\nS", None),
    ],
    "CLIP301": [
        ("def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    C\n    SS", "def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    U\n    C\n    SS"),
        ("def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    if model:\n        C\n    if scaler:\n        SS\n    else:\n        S", None),
        ("def f(loss, scaler):\n    SB\ndef g(model, scaler, optimizer):\n    clip()\n    SS\ndef clip():\n    C", None),  # nor here
        ("SB\nC\nSS\nUP", "SB\nU\nC\nSS\nUP"),
        ("loss = scaler.scale(loss)\ntorch.autograd.backward(loss)\nC\nSS", "loss = scaler.scale(loss)\ntorch.autograd.backward(loss)\nU\nC\nSS"),
        ("if x:\n    loss = scaler.scale(loss)\nB\nC\nSS", "if x:\n    loss = scaler.scale(loss)\nB\nU\nC\nSS"),
        (
            "def run(loss, amp):\n    amp.scale(loss).backward()\n    C\n    amp.step(optimizer)\nrun(loss, torch.amp.GradScaler())",
            "def run(loss, amp):\n    amp.scale(loss).backward()\n    amp.unscale_(optimizer)\n    C\n    amp.step(optimizer)\nrun(loss, torch.amp.GradScaler())",
        ),
        (
            "scalers['d'].scale(loss).backward()\nC\nscalers['d'].step(optimizer)",
            "scalers['d'].scale(loss).backward()\nscalers['d'].unscale_(optimizer)\nC\nscalers['d'].step(optimizer)",
        ),
        (
            "def f(net, loss, optimizer, x):\n    scaler = ShardedGradScaler()\n    loss = net(x)\n    SB\n    net.clip_grad_norm_(1.0)\n    SS",
            "def f(net, loss, optimizer, x):\n    scaler = ShardedGradScaler()\n    loss = net(x)\n    SB\n    U\n    net.clip_grad_norm_(1.0)\n    SS",
        ),
        ("SB\nC\nU\nSS\nUP", "SB\nU\nC\nSS\nUP"),
        ("SB\nC\nscaler.step(self.opt)\nUP", "SB\nscaler.unscale_(self.opt)\nC\nscaler.step(self.opt)\nUP"),
        ("SB\nC\nscaler.step(a_opt)\nscaler.step(b_opt)\nUP", "SB\nscaler.unscale_(a_opt)\nC\nscaler.step(a_opt)\nscaler.step(b_opt)\nUP"),
        ("SB\nif x:\n    C\nSS\nUP", "SB\nif x:\n    U\n    C\nSS\nUP"),
        ("SB\nif x:\n    C\nU\nSS\nUP", None),  # `unscale_` is needed where nothing is clipped, too
        ("SB\nclip()\nSS\nUP\ndef clip():\n    C", None),  # who else calls it is not known
        ("run()\nC\nSS\nUP\ndef run():\n    SB", None),
        ("SB\nprint(x); C\nSS\nUP", None),
        ("SB\nC\nun()\nSS\nUP\ndef un():\n    U", None),
        ("SB\nC\nif i % 4 == 0:\n    SS\n    UP\n    Z", None),
    ],
    "CLIP303": [
        ("SB\nU\nC\nU\nC\nSS\nUP", None),
        ("SB\nU\nif x:\n    C\nU\nSS\nUP", None),
        ("def f(xs):\n    for i, x in enumerate(xs):\n        g(i)\ndef g(i):\n    SB\n    U\n    if i % 4 == 0:\n        SS\n        UP\n        Z", None),
        ("SB\nU\nif x:\n    U\nSS\nUP", None),  # raises wherever the branch runs
        ("SB\nif x:\n    U\nU\nSS\nUP", None),
        ("Z\nSB\nfor part in (a, b):\n    U\n    clip_grad_norm_(part, 1.0)\nSS\nUP", None),
        ("Z\nSB\nU\nif i % 4 == 0:\n    SS\n    UP", "Z\nSB\nif i % 4 == 0:\n    U\n    SS\n    UP"),
        ("SB\nU\nif i % 4 == 0:\n    SS\n    UP\n    Z", "SB\nif i % 4 == 0:\n    U\n    SS\n    UP\n    Z"),
    ],
    "CLIP304": [
        (
            "SB\nU\nclip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)\nSS",
            "SB\nU\nclip_grad_norm_(model.parameters(), 1.0)\nSS",
        ),
        (
            "SB\nU\nclip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True, foreach=True)\nSS",
            "SB\nU\nclip_grad_norm_(model.parameters(), 1.0, foreach=True)\nSS",
        ),
        (
            "SB\nU\nclip_grad_norm_(model.parameters(), (1.0), error_if_nonfinite=True)\nSS",
            "SB\nU\nclip_grad_norm_(model.parameters(), (1.0))\nSS",
        ),
        ("SB\nU\nclip_grad_norm_(model.parameters(), 1.0,  # why\n    error_if_nonfinite=True)\nSS", None),
        ("SB\nU\nclip_grad_norm_(error_if_nonfinite=True, parameters=ps, max_norm=1.0)\nSS", None),
    ],
    "CLIP308": [
        ("SB\nU\nif x:\n    continue\nSS\nUP", None),
        ("SB\nU\nC\nif x:\n    Z\n    continue\nSS\nUP", None),
        ("if amp:\n    U\nif log:\n    UP\nif x:\n    continue\nSS\nUP", None),
        ("if amp:\n    U\nif amp and log:\n    UP\nif x:\n    continue\nSS\nUP", None),
        ("if amp:\n    U\nif i % 4 == 0:\n    UP\nif x:\n    continue\nSS\nUP", None),
    ],
    "CLIP403": [
        ("accelerator.backward(loss)\nC\nS", "accelerator.backward(loss)\naccelerator.clip_grad_norm_(model.parameters(), 1.0)\nS"),
        (
            "self.accelerator.backward(loss)\ntorch.nn.utils.clip_grad_value_(ps, 1.0)\nS",
            "self.accelerator.backward(loss)\nself.accelerator.clip_grad_value_(ps, 1.0)\nS",
        ),
        ("accelerator.backward(loss)\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nS", None),
        ("accelerator.backward(loss)\nclip_grad_norm_(*args)\nS", None),
        ("accelerator.backward(loss)\ntorch.nn.utils.clip_grads_with_norm_(ps, 1.0, n)\nS", None),
        ("run()\nC\nS\ndef run():\n    accelerator.backward(loss)", None),
        (
            "def f(self, model, loss, optimizer):\n    accelerator = self.make()\n    accelerator.backward(loss)\n    C\n    S",
            "def f(self, model, loss, optimizer):\n    accelerator = self.make()\n    accelerator.backward(loss)\n    accelerator.clip_grad_norm_(model.parameters(), 1.0)\n    S",
        ),
        (
            "accelerator.backward(loss)\nif x:\n    accelerator.clip_grad_norm_(ps, 1.0)\nelse:\n    clip_grad_norm_(ps, 2.0)\nS",
            "accelerator.backward(loss)\nif x:\n    accelerator.clip_grad_norm_(ps, 1.0)\nelse:\n    accelerator.clip_grad_norm_(ps, 2.0)\nS",
        ),
    ],
    "CLIP411": [
        ("fabric.backward(loss)\nC\nS", "fabric.backward(loss)\nfabric.clip_gradients(model, optimizer, max_norm=1.0)\nS"),
        (
            "fabric.backward(loss)\nclip_grad_norm_(model.parameters(), 1.0, 1)\nS",
            "fabric.backward(loss)\nfabric.clip_gradients(model, optimizer, max_norm=1.0, norm_type=1)\nS",
        ),
        (
            "fabric.backward(loss)\ntorch.nn.utils.clip_grad_value_(model.parameters(), 0.5)\nS",
            "fabric.backward(loss)\nfabric.clip_gradients(model, optimizer, clip_val=0.5)\nS",
        ),
        ("fabric.backward(loss)\nclip_grad_norm_(ps, 1.0)\nS", None),
        ("fabric.backward(loss)\nclip_grad_norm_(model.parameters(), 1.0, foreach=True)\nS", None),
        ("fabric.backward(loss)\nC\nif x:\n    S", None),
        ("fabric.backward(loss)\nC\nif x:\n    S\nelse:\n    other.step()", None),
        ("fabric.backward(loss)\nC\ngo()\ndef go():\n    S", None),
        ("run()\nC\nS\ndef run():\n    fabric.backward(loss)", None),
    ],
    "CLIP306": [
        (
            "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\n    C\nS",
            "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nC\nS",
        ),
        ("with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\n    C\n    print(x)\nS", None),
        ("with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\n    if x:\n        C\nS", None),
        ("with amp.scale_loss(loss, optimizer) as scaled:\n    C\n    scaled.backward()\nS", None),
    ],
    "CLIP307": [
        (
            "level = 'O2'\nwith torch.no_grad():\n    with amp.scale_loss(loss, optimizer) as scaled:\n        scaled.backward()\nC\nS",
            "level = 'O2'\nwith torch.no_grad():\n    with amp.scale_loss(loss, optimizer) as scaled:\n        scaled.backward()\nclip_grad_norm_(amp.master_params(optimizer), 1.0)\nS",
        ),
        (
            "level = 'O2'\nwith amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nC\nS",
            "level = 'O2'\nwith amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\nclip_grad_norm_(amp.master_params(optimizer), 1.0)\nS",
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "after"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found_and_fixed(code: str, body: str, after: str | None) -> None:
    (finding,) = check(body, code).findings
    assert (finding.fix is None) == (after is None)
    assert bool(finding.help) == (after is None)
    assert check(body, code, fix=True).now.decode() == program(after or body)


def at(body: str, code: str) -> list[str]:
    """The code of the lines with a finding."""
    lines = program(body).split("\n")
    return [lines[finding.place.line - 1].strip() for finding in check(body, code).findings]


TWO_BRANCHES = "B\nif limit:\n    C\nelse:\n    clip_grad_value_(ps, 1.0)\nif i % 4 == 0:\n    S\n    Z"
NESTED = """\
def f(model, accelerator, optimizer, loss, xs):
    def one():
        {}
    for x in xs:
        with accelerator.accumulate(model):
            {}
"""


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (f"from torch.nn.utils import clip_grad_value_\nfor i, x in enumerate(xs):\n{textwrap.indent(TWO_BRANCHES, '    ')}",
         ["clip_grad_norm_(model.parameters(), 1.0)", "clip_grad_value_(ps, 1.0)"]),
        # the clip itself, where the micro-batch is all in one function; else the call that is not guarded
        (NESTED.format("B; C; S; Z", "one()"), ["loss.backward(); clip_grad_norm_(model.parameters(), 1.0); optimizer.step(); optimizer.zero_grad()"]),
        (NESTED.format("C", "B; one(); S; Z"), ["loss.backward(); one(); optimizer.step(); optimizer.zero_grad()"]),
    ],
)  # fmt: skip
def test_where_a_clip_of_each_micro_batch_is_reported(body: str, lines: list[str]) -> None:
    assert at(body, "CLIP108") == lines


# --- closures and several optimizers ----------------------------------------------------------------------------------


def closure(inside: str, around: str) -> str:
    inner = "\n".join("            " + line for line in inside.split("\n"))
    outer = "\n".join("        " + line for line in around.split("\n"))
    return f"def f(model, optimizer, loss, xs):\n    for x in xs:\n        def closure():\n{inner}\n            return loss\n{outer}"


@pytest.mark.parametrize(
    "body",
    [
        closure("B\nC", "optimizer.step(closure)"),
        closure("B\nC", "C\noptimizer.step(closure)"),
        closure("prepare(optimizer)\nB", "C\noptimizer.step(closure)"),
        closure("print(x)", "C\noptimizer.step(closure)"),
        closure("B", "C\noptimizer.step()"),
        closure("B", "C\nclosure()\nS"),
        closure("B", "C\nB\nS"),
        closure("B", "optimizer.step(closure)"),
        closure("B", "C\nif x:\n    optimizer.step(closure)\nelse:\n    S"),
        closure("B", "C\nother.run(closure)"),
    ],
)
def test_clips_that_a_closure_does_not_overwrite(body: str) -> None:
    assert check(body, "CLIP109").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        closure("B", "C\noptimizer.step(closure)"),
        closure("Z\nB", "C\noptimizer.step(closure=closure)"),
        closure("B", "closure()\nC\noptimizer.step(closure)"),
        closure("B", "if x:\n    C\noptimizer.step(closure)"),
        # a clip to infinity in the closure only measures
        closure('B\ntorch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))', "C\noptimizer.step(closure)"),
    ],
)
def test_clips_outside_of_the_closure_that_computes_the_gradients(body: str) -> None:
    (finding,) = check(body, "CLIP109").findings
    assert finding.help


OPTIMIZERS = "def f(g, d, loss, xs):\n    opt_g = torch.optim.Adam(g.parameters())\n    opt_d = torch.optim.Adam(d.parameters())\n    for x in xs:\n"


def of_two(*lines: str) -> str:
    return OPTIMIZERS + "\n".join("        " + line for line in lines)


CLIP_G = "clip_grad_norm_(g.parameters(), 1.0)"


@pytest.mark.parametrize(
    "body",
    [
        of_two("SB", "scaler.unscale_(opt_g)", CLIP_G, "scaler.step(opt_g)"),
        of_two("SB", "scaler.unscale_(opt_g)", "scaler.unscale_(opt_d)", CLIP_G),
        of_two("SB", "scaler.unscale_(opt_d)", "scaler.unscale_(opt_g)", CLIP_G),
        of_two("SB", CLIP_G, "scaler.step(opt_g)"),
        of_two("SB", "scaler.unscale_(opt_d)", "prepare(opt_g)", CLIP_G),
        of_two("SB", "scaler.unscale_(opt_d)", "p.grad.mul_(2)", CLIP_G),
        of_two("SB", "scaler.unscale_(opts[0])", CLIP_G),
        of_two("SB", "prepare(opt_g)", "scaler.unscale_(opt_d)", CLIP_G),
        of_two("SB", "p.grad.mul_(2)", "scaler.unscale_(opt_d)", CLIP_G),
    ],
)
def test_clips_whose_optimizer_is_or_may_be_unscaled(body: str) -> None:
    assert check(body, "CLIP305").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        of_two("SB", "scaler.unscale_(opt_d)", CLIP_G, "scaler.step(opt_g)"),
        of_two("SB", "scaler.unscale_(opt_d)", "clip_grad_norm_(d.parameters(), 1.0)", CLIP_G),
    ],
)
def test_clips_after_another_optimizer_is_unscaled(body: str) -> None:
    (finding,) = check(body, "CLIP305").findings
    assert finding.help


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("d.parameters()", True),
        ("list(d.parameters())", True),
        ("[*d.parameters()]", True),
        ("filter(None, d.parameters())", True),
        ("itertools.chain(d.parameters())", True),
        ("[p for p in d.parameters()]", True),
        ("d.layer.parameters()", True),
        ("g.parameters()", False),
        ("list(g.parameters())", False),
    ],
)
def test_a_clip_after_the_step_of_its_own_optimizer(parameters: str, found: bool) -> None:
    body = of_two("Z", "B", "opt_d.step()", f"clip_grad_norm_({parameters}, 1.0)", "opt_g.zero_grad()")
    assert bool(check(body.replace("Z\n", "opt_d.zero_grad()\n"), "CLIP101").findings) is found


CLIP_D = "clip_grad_norm_(d.parameters(), 1.0)"
THEN_G = ("opt_g.zero_grad()", "B", "opt_g.step()")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (of_two("opt_d.zero_grad()", "B", "opt_d.step()", CLIP_D, *THEN_G), True),
        (of_two("for p in d.parameters():", "    p.grad = None", "B", "opt_d.step()", CLIP_D, *THEN_G), True),
        (of_two("opt_g.zero_grad()", "B", "opt_g.step()", "clip_grad_norm_(g_params, 1.0)", "opt_d.zero_grad()", "B", "opt_d.step()"), True),
        (of_two("opt_d.zero_grad()", "B", "if x:", "    opt_d.step()", CLIP_D, *THEN_G), False),
        (of_two("opt_d.zero_grad()", "B", "opt_d.step()", CLIP_D, "prepare(opt_d)", *THEN_G), False),
        (of_two("opt_d.zero_grad()", "B", "opt_d.step()", CLIP_D.replace("1.0", "float('inf')"), *THEN_G), False),
    ],
)  # fmt: skip
def test_a_clip_between_the_steps_of_two_optimizers(body: str, found: bool) -> None:
    assert bool(check(body, "CLIP101").findings) is found


@pytest.mark.parametrize(
    ("after_backward", "after_clip", "after_step", "found"),
    [
        ("print(x)", "print(x)", "print(x)", 1),
        (CLIP_G, "print(x)", "print(x)", 2),
        # the other one's gradients are clipped, or may be
        (CLIP_D, "print(x)", "print(x)", 0),
        ("print(x)", CLIP_D, "print(x)", 0),
        ("p.grad.mul_(0.5)", "print(x)", "print(x)", 0),
        ("prepare(opt_d)", "print(x)", "print(x)", 0),
        ("print(x)", "prepare(opt_d)", "print(x)", 0),
        # what is clipped is stepped later, or may be
        ("print(x)", "print(x)", "opt_g.step()", 0),
        ("print(x)", "print(x)", "prepare(opt_g)", 0),
        ("print(x)", "print(x)", "x and opt_g.step()", 0),
    ],
)
def test_a_clip_before_the_step_of_another_optimizer(
    after_backward: str, after_clip: str, after_step: str, found: int
) -> None:
    own = ("opt_g.zero_grad()", "B", CLIP_G, "opt_g.step()")
    body = of_two(*own, "opt_d.zero_grad()", "B", after_backward, CLIP_G, after_clip, "opt_d.step()", after_step)
    assert len(check(body, "CLIP117").findings) == found


def test_code_that_never_clips_is_not_told_when_to_clear_its_gradients() -> None:
    text = "def f(loss, optimizer):\n    loss.backward()\n    optimizer.zero_grad()\n    optimizer.step()\n"
    settings = Settings(codes=frozenset({"CLIP104"}), prefilter=False)
    assert check_file("x.py", text.encode(), settings).findings == ()
    assert len(check_file("x.py", f"{text}# clip_grad_norm_\n".encode(), settings).findings) == 1


def test_related_places_are_shown() -> None:
    for code, body, line in (
        ("CLIP101", "Z\nB\nS\nC", 7),
        ("CLIP102", "Z\nC\nB\nS", 7),
        ("CLIP104", "B\nZ\nS", 5),
        ("CLIP108", "B\nC\nif i % 4 == 0:\n    S\n    Z", 8),
        ("CLIP301", "SB\nC\nSS\nUP", 5),
        ("CLIP303", "SB\nU\nif i % 4 == 0:\n    SS\n    UP\n    Z", 8),
    ):
        (finding,) = check(body, code).findings
        assert finding.related[0][0].line == line
