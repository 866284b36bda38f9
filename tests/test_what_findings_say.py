"""What a finding says, and which other places it shows: each with its note, in the order in which they are told.

The programs are those of `test_rules_in_detail`: their first line is line 10 here.
"""

from __future__ import annotations

import pytest
from abbreviated import written
from test_rules_in_detail import HEAD, LOCAL, TOTAL, f, findings, loop
from test_rules_of_places import HOOK, SHARDED, SWALLOWED, TRAIN, module

C, B, S, Z = "clip_grad_norm_(model.parameters(), 1.0)", "loss.backward()", "optimizer.step()", "optimizer.zero_grad()"
SB, U, SS = "scaler.scale(loss).backward()", "scaler.unscale_(optimizer)", "scaler.step(optimizer)"
TWO = "def run(m, n, loss, xs):\n    a = torch.optim.SGD(m.parameters())\n    b = torch.optim.SGD(n.parameters())\n    for x in xs:\n        "
XLA, HVD = "import torch_xla.core.xla_model as xm\n", "import horovod.torch as hvd\n"

# A rule, a program, the line that is reported, the message, and the other places: line and note.
ROWS: list[tuple[str, str, str, str, list[tuple[str, str]]]] = [
    ("CLIP101", loop("B\nS\nC\nZ"), C, "clipping has no effect: `optimizer.step()` on line 13 has already used the gradients", [(S, "the gradients are used here")]),
    ("CLIP101", loop("B\nS\nC"), C, "clipping comes too late: `optimizer.step()` on line 13 has already used the gradients", [(S, "the gradients are used here")]),
    ("CLIP102", loop("Z\nC\nB\nS"), C, "clips before line 14 runs `backward()`: the new gradients are never clipped", [(B, "the gradients are computed here")]),
    ("CLIP103", f("C\nfor x in xs:\n    B\n    S"), C, "clips nothing: there are no gradients before `backward()` on line 13", [(B, "the gradients are computed here")]),
    ("CLIP104", loop("B\nZ\nS\nlog(scaler)"), Z, "discards the gradients of line 12 before the step on line 14", [(B, "the gradients are computed here"), (S, "and would be used here")]),
    ("CLIP104", loop("Z\nB\nC\nif i % 4 == 0:\n    S"), Z, "discards the earlier micro-batches: the step on line 16 uses only the last one", [(S, "the sum is used here")]),
    ("CLIP105", f("qs = model.parameters()\nlist(qs)\nclip_grad_norm_(qs, 1.0)"), "clip_grad_norm_(qs, 1.0)", "gradients are never clipped: `qs` was used up on line 12", [("qs = model.parameters()", "the iterator is made here"), ("list(qs)", "and used up here")]),
    ("CLIP105", f("qs = model.parameters()\nfor x in xs:\n    clip_grad_norm_(qs, 1.0)"), "clip_grad_norm_(qs, 1.0)", "clips in the first iteration only: `qs` is a one-shot iterator, made on line 11", [("qs = model.parameters()", "the iterator is made here")]),
    ("CLIP105", f("list(ps)\nclip_grad_norm_(ps, 1.0)", "def g(ps):") + "\ng(model.parameters())", "g(model.parameters())", "clips nothing: the function iterates over its argument twice, which empties an iterator", [("list(ps)", "used up here"), ("clip_grad_norm_(ps, 1.0)", "and nothing is left here")]),
    ("CLIP106", "clip_grad_norm_([p.grad for p in ps], 1.0)", "clip_grad_norm_([p.grad for p in ps], 1.0)", "clips nothing and returns 0.0: it gets gradients instead of parameters", []),
    ("CLIP106", "clip_grad_norm_(p.grad, 1.0)", "clip_grad_norm_(p.grad, 1.0)", "clips nothing and returns 0.0: it gets a gradient instead of parameters", []),
    ("CLIP106", "clip_grad_norm_((p.data for p in ps), 1.0)", "clip_grad_norm_((p.data for p in ps), 1.0)", "clips nothing and returns 0.0: it gets `.data` tensors instead of parameters", []),
    ("CLIP106", "gs = [p.grad for p in ps]\nclip_grad_norm_(gs, 1.0)", "clip_grad_norm_(gs, 1.0)", "clips nothing and returns 0.0: it gets gradients instead of parameters", [("gs = [p.grad for p in ps]", "they are made here")]),
    ("CLIP106", f("clip_grad_norm_(ps, 1.0)", "def g(ps):") + "\ng([p.grad for p in qs])", "g([p.grad for p in qs])", "clips nothing: the function gets gradients instead of parameters", []),
    ("CLIP106", f("clip_grad_norm_(ps, 1.0)", "def g(ps):") + "\ngs = [p.grad for p in qs]\ng(gs)", "g(gs)", "clips nothing: the function gets gradients instead of parameters", [("gs = [p.grad for p in qs]", "they are made here")]),
    ("CLIP108", loop("B\nC\nif i % 4 == 0:\n    S\n    Z"), C, "clips every micro-batch, but the step on line 15 uses the sum of several", [(S, "the gradients are used here")]),
    ("CLIP108", loop("with accelerator.accumulate(model):\n    B\n    C\n    S\n    Z"), C, "clips every micro-batch: `accumulate()` on line 12 accumulates several", [("with accelerator.accumulate(model):", "accumulates here")]),
    ("CLIP108", loop("with model.no_sync():\n    B\n    C"), C, "clips every micro-batch: `no_sync()` on line 12 accumulates several", [("with model.no_sync():", "gradients are not averaged in this block")]),
    ("CLIP108", loop("if i % 4:\n    B\n    C\nelse:\n    B\n    C\n    S\n    Z"), C, "clips a partial sum of the gradients that the step on line 18 uses", [(S, "the gradients are used here")]),
    ("CLIP108", loop("B\nclip()\nif i % 4 == 0:\n    S\n    Z") + "\n" + f("C", "def clip():"), "clip()", "clips every micro-batch, but the step on line 15 uses the sum of several", [(S, "the gradients are used here")]),
    ("CLIP109", loop("C\noptimizer.step(lambda: loss.backward())"), C, "has no effect: the closure called by the step on line 13 recomputes the gradients", [("optimizer.step(lambda: loss.backward())", "the closure is called here")]),
    ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(p, 1.0)", "clips each parameter by its own norm: the total norm is not bounded, and the direction changes", [("for p in model.parameters():", "the loop over the parameters")]),
    ("CLIP110", "for m in model.modules():\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(m.parameters(), 1.0)", "the first iteration clips the whole model: the later ones take time and change nothing", [("for m in model.modules():", "the loop over all modules")]),
    ("CLIP111", "for m in models:\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(m.parameters(), 1.0)", "clips each group by its own norm: the total norm may exceed `max_norm`", [("for m in models:", "the loop over the groups")]),
    ("CLIP112", "clip_grad_norm_(chain(m.head.parameters(), m.parameters()), 1.0)", "clip_grad_norm_(chain(m.head.parameters(), m.parameters()), 1.0)", "counts and scales the parameters of `m.head` twice: `m` already contains them", []),
    ("CLIP112", "clip_grad_norm_(chain(m.parameters(), m.parameters()), 1.0)", "clip_grad_norm_(chain(m.parameters(), m.parameters()), 1.0)", "counts and scales the parameters of `m` twice", []),
    ("CLIP113", f("B\nget_total_norm(grads)\nS"), "get_total_norm(grads)", "`get_total_norm` only measures the norm: its result is unused, and nothing is clipped", []),
    ("CLIP113", f(f"B\n{TOTAL}\nS"), TOTAL, "this only measures the norm: its result is unused, and nothing is clipped", []),
    ("CLIP114", f(SWALLOWED.format("Exception", "pass")), C, "a failed clip goes unnoticed: the step on line 17 uses unclipped gradients", [("try:", "every error is swallowed here"), (S, "the step runs anyway")]),
    ("CLIP114", f("B\ntry:\n    C\nexcept Exception:\n    pass"), C, "a failed clip goes unnoticed: training continues with unclipped gradients", [("try:", "every error is swallowed here")]),
    ("CLIP114", f("S\ntry:\n    C\nexcept Exception:\n    pass\nS\nS"), C, "a failed clip goes unnoticed: the step on line 16 uses unclipped gradients", [("try:", "every error is swallowed here"), (S, "the step runs anyway")]),
    ("CLIP114", f("try:\n    C\nexcept Exception:\n    pass") + "\n" + f("S", "def g():"), C, "a failed clip goes unnoticed: training continues with unclipped gradients", [("try:", "every error is swallowed here")]),
    ("CLIP115", HOOK + TRAIN.format(C), C, "clips nothing: line 15 makes the optimizer step during `backward()`", [("p.register_post_accumulate_grad_hook(hook)", "set up here to step during `backward()`")]),
    ("CLIP116", loop("if x:\n    B\n    C\n    S\nelse:\n    B\n    S"), C, "only this branch clips: `optimizer.step()` on line 18 is not clipped", [(S, "not clipped here")]),
    ("CLIP117", TWO + "a.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        a.step()\n        b.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        b.step()", "clip_grad_norm_(m.parameters(), 1.0)", "clips another optimizer's parameters: `b.step()` on line 21 is not clipped", [("b.step()", "the step is here")]),
    ("CLIP203", "clip_grad_norm_(ps, 1.0, True)", "clip_grad_norm_(ps, 1.0, True)", "`True` is taken as `norm_type`, so this computes the 1-norm", []),
    ("CLIP203", "clip_grad_norm_(ps, 1.0, False)", "clip_grad_norm_(ps, 1.0, False)", "`False` is taken as `norm_type`, so this counts nonzeros", []),
    ("CLIP203", "clip_grad_norm_(ps, 1.0, 'l2')", "clip_grad_norm_(ps, 1.0, 'l2')", "`'l2'` as `norm_type` raises a ValueError in the first step: pass a number", []),
    ("CLIP204", "clip_grad_norm_(ps, clip=1)", "clip_grad_norm_(ps, clip=1)", "raises in the first step: `clip_grad_norm_` has no argument `clip`", []),
    ("CLIP204", "clip_grad_value_(ps, 1, 2, 3)", "clip_grad_value_(ps, 1, 2, 3)", "raises in the first step: too many arguments for `clip_grad_value_`", []),
    ("CLIP207", "e = nn.Embedding(3, 4, sparse=True)\nclip_grad_norm_(e.parameters(), 1.0)", "clip_grad_norm_(e.parameters(), 1.0)", "raises in the first step: the embedding on line 10 has sparse gradients", [("e = nn.Embedding(3, 4, sparse=True)", "sparse gradients")]),
    ("CLIP301", loop("SB\nC\nSS\nUP"), C, "clips scaled gradients: call `scaler.unscale_(optimizer)` first", [(SB, "the gradients are scaled here")]),
    ("CLIP301", loop("SB\nC\nU\nSS\nUP"), C, "clips scaled gradients: `unscale_` comes later, on line 14", [(SB, "the gradients are scaled here"), (U, "and unscaled here")]),
    ("CLIP301", loop("SB\nclip()\nSS\nUP") + "\n" + f("C", "def clip():"), C, "clips scaled gradients: call `scaler.unscale_(optimizer)` first", [("clip()", "called here"), (SB, "the gradients are scaled here")]),
    ("CLIP301", loop("SB\nclip()\nSS\nUP") + "\n" + f("C", "def clip():") + "\n" + f("U", "def g():"), "clip()", "clips scaled gradients: call `scaler.unscale_(optimizer)` first", [(C, "clipped here"), (SB, "the gradients are scaled here")]),
    ("CLIP301", f("SB", "def g(loss, scaler):") + "\n" + f("C\nSS", "def h(model, scaler, optimizer):"), C, "clips scaled gradients: nothing in this file calls `scaler.unscale_(optimizer)`", [(SB, "the gradients are scaled here")]),
    ("CLIP303", loop("SB\nU\nif i % 4 == 0:\n    SS\n    UP\n    Z"), U, "unscales every micro-batch, but the step on line 15 runs once for several", [(SS, "the step runs here")]),
    ("CLIP303", loop("SB\nU\nC\nU\nSS\nUP"), U, "raises a RuntimeError: line 13 has already unscaled for this step", [(U, "unscaled here")]),
    ("CLIP304", loop("SB\nU\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nSS"), "clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)", "ends training at the first overflow: drop `error_if_nonfinite`, and the scaler skips such steps", [(U, "unscaled infinities stay infinite")]),
    ("CLIP305", TWO + "SB\n        scaler.unscale_(b)\n        clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(m.parameters(), 1.0)", "clips scaled gradients: line 15 unscales those of another optimizer", [("scaler.unscale_(b)", "another optimizer is unscaled here")]),
    ("CLIP306", loop("with amp.scale_loss(loss, optimizer) as s:\n    s.backward()\n    C"), C, "clips scaled gradients: they are unscaled at the end of the block on line 12", [("with amp.scale_loss(loss, optimizer) as s:", "the gradients are scaled in this block")]),
    ("CLIP308", loop("SB\nU\nif x:\n    continue\nSS\nUP"), "continue", "skips `scaler.update()`: the next `unscale_` on line 13 raises a RuntimeError", [(U, "unscaled here")]),
    ("CLIP309", loop(f"SB\nlog('grad_norm', {TOTAL})\nSS"), f"log('grad_norm', {TOTAL})", "norm of gradients still scaled by `scaler`: 65536 times too large at first", [(SB, "the gradients are scaled here")]),
    ("CLIP309", "accelerator = Accelerator(mixed_precision='fp16')\n" + loop(f"accelerator.backward(loss)\nlog('grad_norm', {TOTAL})\nS"), f"log('grad_norm', {TOTAL})", "norm of gradients still scaled by the scaler: 65536 times too large at first", [("accelerator.backward(loss)", "the gradients are scaled here")]),
    ("CLIP401", module("clip_grad_norm_(self.parameters(), 1.0)"), "clip_grad_norm_(self.parameters(), 1.0)", "clips before backward: Lightning runs `backward()` after `training_step` returns", []),
    ("CLIP402", module("self.automatic_optimization = False") + "L.Trainer(gradient_clip_val=1.0)", "L.Trainer(gradient_clip_val=1.0)", "raises an error when training starts: Lightning does not clip under manual optimization", [("self.automatic_optimization = False", "optimization is manual here")]),
    ("CLIP403", loop("accelerator.backward(loss)\nC\nS"), C, "clips wrongly under fp16, FSDP or DeepSpeed: call the accelerator's method instead", [("accelerator.backward(loss)", "the gradients are computed here")]),
    ("CLIP404", "import deepspeed\nengine, *_ = deepspeed.initialize(model=model)\n" + loop("engine.backward(loss)\nC\nengine.step()"), C, "has no effect: the DeepSpeed engine on line 14 keeps its own gradients", [("engine.backward(loss)", "the engine runs backward")]),
    ("CLIP405", SHARDED + "m = FSDP(n)\nclip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(m.parameters(), 1.0)", "each rank clips by the norm of its own shards: FSDP wraps the model on line 12", [("m = FSDP(n)", "the model is sharded here")]),
    ("CLIP406", SHARDED + "if rank == 0:\n    clip_grad_norm_(ps, 1.0)", "clip_grad_norm_(ps, 1.0)", "training hangs: all ranks must clip, but only one rank takes the branch on line 12", [("if rank == 0:", "only one rank takes this branch")]),
    ("CLIP407", "fully_shard(model)\nnorm = clip_grad_norm_(ps, 1.0)\nprint(f'{norm:.2f}')", "print(f'{norm:.2f}')", "raises a TypeError: under `fully_shard` the norm is a DTensor, which cannot be formatted", [("norm = clip_grad_norm_(ps, 1.0)", "the norm is computed here")]),
    ("CLIP407", "fully_shard(model)\nprint(f'{clip_grad_norm_(ps, 1.0):.2f}')", "print(f'{clip_grad_norm_(ps, 1.0):.2f}')", "raises a TypeError: under `fully_shard` the norm is a DTensor, which cannot be formatted", []),
    ("CLIP408", XLA + loop("B\nC\nxm.optimizer_step(optimizer)"), C, "clips each replica's own gradients: the step on line 15 sums them afterwards", [("xm.optimizer_step(optimizer)", "reduced here")]),
    ("CLIP409", HVD + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    S"), C, "clips before the gradients are averaged: Horovod waits for them in the step on line 16", [(S, "averaged here")]),
    ("CLIP410", module("clip_grad_norm_(self.parameters(), 1.0)", "on_train_batch_end"), "clip_grad_norm_(self.parameters(), 1.0)", "has no effect: Lightning calls `on_train_batch_end` after the step", []),
    ("CLIP410", module("clip_grad_norm_(self.parameters(), 1.0)", "optimizer_step"), "clip_grad_norm_(self.parameters(), 1.0)", "clips the previous step's gradients: the closure, which runs backward, is called later", []),
    ("CLIP410", module("opt.step()\nclip_grad_norm_(self.parameters(), 1.0)", "optimizer_step"), "clip_grad_norm_(self.parameters(), 1.0)", "has no effect: the step above has already used the gradients", []),
    ("CLIP411", loop("fabric.backward(loss)\nC\nS"), C, "clips wrongly under fp16, FSDP or DeepSpeed: call `fabric.clip_gradients` instead", [("fabric.backward(loss)", "the gradients are computed here")]),
    ("CLIP412", f(f"total = {LOCAL}\nlog(1)\nreturn total"), "return total", "norm of this rank's shards without an all-reduce: too small, and different on each rank", [(f"total = {LOCAL}", "the norm is computed here")]),
    ("CLIP413", loop("B\nC\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nS"), C, "clips each rank's own gradients before the all-reduce on line 15: the direction changes", [("dist.all_reduce(p.grad)", "the gradients are all-reduced here")]),
    ("CLIP414", "def g(ps):\n    grads = [p.grad for p in ps]\n    if not grads:\n        return 0\n    dist.all_reduce(x)", "return 0", "training hangs: a rank without gradients returns, and the others wait for it on line 14", [("dist.all_reduce(x)", "the other ranks wait here")]),
    ("CLIP501", "clipped_norm = clip_grad_norm_(ps, 1.0)", "clipped_norm = clip_grad_norm_(ps, 1.0)", "`clipped_norm` is the norm before clipping, which is what the clip returns", [("clipped_norm = clip_grad_norm_(ps, 1.0)", "clipped here")]),
    ("CLIP501", "norm = clip_grad_norm_(ps, 1.0)\nlog({'clipped_norm': norm})", "log({'clipped_norm': norm})", "logged as `clipped_norm`, but the clip returns the norm before clipping", [("norm = clip_grad_norm_(ps, 1.0)", "clipped here")]),
    ("CLIP501", "norm = clip_grad_norm_(ps, 1.0)\nassert norm <= 1.0", "assert norm <= 1.0", "the assertion fails whenever clipping is needed: the clip returns the norm before clipping", [("norm = clip_grad_norm_(ps, 1.0)", "clipped here")]),
    ("CLIP502", "loss = clip_grad_norm_(ps, 1.0)", "loss = clip_grad_norm_(ps, 1.0)", "`loss` becomes a norm: the clip works in place, so do not assign its result", []),
    ("CLIP503", loop("n = clip_grad_norm_(ps, 1.0)\nlog(n.item())"), "log(n.item())", "reading the norm synchronizes with the device in every step", [("n = clip_grad_norm_(ps, 1.0)", "the norm is computed here")]),
    ("CLIP505", "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 2.0)", "clip_grad_norm_(ps, 2.0)", "changes nothing: line 10 has already clipped the same parameters", [("clip_grad_norm_(ps, 1.0)", "clipped here")]),
    ("CLIP506", f(f"S\nZ\nlog({TOTAL})"), f"log({TOTAL})", "norm of gradients that `zero_grad()` has cleared: it is always 0", [(Z, "the gradients are cleared here")]),
    ("CLIP507", f(f"B\nclip_grad_norm_(ps, 1.0)\nlog('grad_norm', {TOTAL})\nS"), f"log('grad_norm', {TOTAL})", "norm of already clipped gradients: it never exceeds `max_norm`", [("clip_grad_norm_(ps, 1.0)", "the gradients are clipped here")]),
    ("CLIP006", "norm = 0.0\nfor p in ps:\n    norm += p.grad.norm() ** 3\n", "norm += p.grad.norm() ** 3", "sums 2-norms raised to the power of 3, which is not a norm: use one number for both", []),
    ("CLIP006", "norm = 0.0\nfor p in ps:\n    norm += p.grad.norm(3) * p.grad.norm(3)\n", "norm += p.grad.norm(3) * p.grad.norm(3)", "sums 3-norms raised to the power of 2, which is not a norm: use one number for both", []),
    *(("CLIP005", f(f"log({norm})"), f"log({norm})", f"gradient norm accumulated one tensor at a time: many kernels{why}", []) for norm, why in (
        (TOTAL, ", and a sum in the gradients' dtype"),
        ("sum(p.grad.float().norm() ** 2 for p in ps) ** 0.5", " where one call would do"),
        ("torch.stack([p.grad.norm() for p in ps]).norm(dtype=torch.double)", " where one call would do"),
    )),
    ("CLIP006", f("norm = 0.0\nfor p in ps:\n    norm += p.grad.norm() ** 2\nlog(norm)"), "log(norm)", "`norm` is a sum of squares, but is returned or logged as a norm: take the root", []),
    ("CLIP006", f("t = 0.0\nfor p in ps:\n    t += p.grad.norm() ** 2\nreturn t ** 1 / 2"), "return t ** 1 / 2", "`t ** 1 / 2` divides by 2 instead of taking the root", []),
]  # fmt: skip


@pytest.mark.parametrize(("code", "body", "line", "message", "related"), ROWS)
def test_what_a_finding_says(code: str, body: str, line: str, message: str, related: list[tuple[str, str]]) -> None:
    lines = [text.strip() for text in (HEAD + "\n" + written(body)).split("\n")]
    (found,) = findings("\n" + body, code)
    assert found.message == message
    assert lines[found.place.line - 1] == line
    assert [(lines[place.line - 1], note) for place, note in found.related] == related


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("t = 0.0\nfor p in ps:\n    t += p.grad.norm().data[0] ** 2", "`.data[0]` of a number raises an IndexError in current versions of torch"),
        ("t = 0.0\nfor p in ps:\n    t = max(t, p.grad.abs().max().item())", "where a gradient is NaN, `max` gives a different number than a norm"),
        ("t = 0.0\nfor p in ps:\n    t += p.grad.norm().cpu() ** 2", "the sum is a CPU tensor"),
        ("t = 0.0\nfor p in ps:\n    t += p.grad.to_local().norm().item() ** 2", "the tensors are this rank's shards"),
        ("log(torch.cat([p.grad.cpu().view(-1) for p in ps]).norm())", "the gradients themselves are copied to the host"),
        ("ns = []\nfor p in ps:\n    ns.append(p.grad.norm().item() ** 2)\nlog(ns)", "the individual norms are kept"),
    ],
)  # fmt: skip
def test_why_a_loop_is_not_rewritten(body: str, why: str) -> None:
    (found,) = findings(f(body), "CLIP001")
    assert found.fix is None and why in found.help


@pytest.mark.parametrize(
    ("code", "body", "roles"),
    [
        ("CLIP504", "n = get_total_norm([p.grad for p in ps])\nclip_grad_norm_(ps, 2.0)", [("ps", "parameters"), ("2.0", "max_norm")]),
        ("CLIP507", f(f"B\nclip_grad_norm_(ps, 2.0)\ngrad_norm = {TOTAL}\nS\nlog(grad_norm)"), [("ps", "parameters"), ("2.0", "max_norm")]),
        ("CLIP006", f("norm = 0.0\nfor p in ps:\n    norm += p.grad.norm() ** 2\nreturn norm", "def grad_norm(ps):"), [("norm", "total")]),
        ("CLIP007", "grad_norm = get_total_norm(model.parameters())", [("model.parameters()", "parameters")]),
    ],
)  # fmt: skip
def test_what_the_expressions_of_a_fix_are(code: str, body: str, roles: list[tuple[str, str]]) -> None:
    (found,) = findings(body, code)
    assert found.fix is not None
    assert [(text, role.value) for text, role in found.fix.roles] == roles
