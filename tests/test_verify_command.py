"""`clipcheck verify`: the table, the JSON, the exit codes, and a worker that may hang or die."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck.verify import worker
from clipcheck.verify.claims import Claim, Outcome
from clipcheck.verify.pairs import Pair, Row, find, verify
from clipcheck.verify.table import as_json, failed, table
from clipcheck.verify.worker import Lost, NoTorch, Worker

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

TRAIN = """\
# claim: same
import torch
def train(model, optimizer, batches, loss_fn, record, max_norm):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        record(torch.nn.utils.clip_grad_norm{name}(model.parameters(), max_norm))
        optimizer.step()
"""


def clipcheck(*words: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "clipcheck", *words], cwd=cwd, capture_output=True, text=True)


def test_every_example_holds_its_claim() -> None:
    done = clipcheck("verify", "--output-format", "json")
    rows = json.loads(done.stdout)
    assert [row for row in rows if row["verdict"] == "fails"] == []
    assert done.returncode == 0
    assert {pair.name for pair in find()} == {row["fixture"] for row in rows}
    for row in rows:
        assert (row["reason"] is not None) == (row["verdict"] == "not-verified-here")


def test_the_table_fits_a_hundred_columns() -> None:
    done = clipcheck("verify", "--select", "CLIP002")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "CLIP002/after_torch     same   holds    bitwise" in done.stdout


def test_unknown_code_is_one_line() -> None:
    done = clipcheck("verify", "--select", "CLIP999")
    assert done.returncode == 2
    assert "CLIP999" in done.stderr and "Traceback" not in done.stderr


def test_failed_and_skipped_pairs_are_distinguished() -> None:
    rows = [
        Row("A", Claim("same"), Outcome(True, difference=0.0, nearer="equal", speed=0.5)),
        Row("B", Claim("bounded"), Outcome(False, "a gradient of norm 3 reaches a step " * 6)),
        Row("C", Claim("finite", "needs a GPU"), Outcome(None, "needs a GPU")),
    ]
    text = table(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert "1 held, 1 failed, 1 not verified here" in text
    assert failed(rows) and not failed(rows[::2])
    assert [row["verdict"] for row in json.loads(as_json(rows))] == ["holds", "fails", "not-verified-here"]


def test_pairs_that_cannot_run_never_pass() -> None:
    good = TRAIN.format(name="_")
    rows = verify(
        [
            Pair("gpu", good.replace("same", "same, not verified here: needs a GPU"), good, False),
            Pair("notebook", good, good, False, ".ipynb"),
            Pair("no claim", good.partition("\n")[2], good, False),
        ],
        jobs=1,
    )
    assert [row.outcome.holds for row in rows] == [None, None, False]


def test_a_program_that_exits_is_a_failure_but_does_not_stop_the_others() -> None:
    good, old = TRAIN.format(name="_"), TRAIN.format(name="")
    rows = verify(
        [
            Pair("exits", old, good.replace("optimizer.step()", "import os; os._exit(3)"), False),
            Pair("segfault", old, good.replace("optimizer.step()", "import ctypes; ctypes.string_at(0)"), False),
            Pair("right", old, good, False),
        ],
        jobs=1,
    )
    assert [row.outcome.holds for row in rows] == [False, False, True]
    assert "status 3" in rows[0].outcome.reason


def test_a_program_that_does_not_end_is_stopped() -> None:
    loop = TRAIN.format(name="_").replace("optimizer.step()", "\n        while True: pass")
    with Worker("fixtures", 2.0) as one:
        one.ask({"pair": [TRAIN.format(name=""), TRAIN.format(name="_")], "claim": "same", "to_torch": False})
        answer = one.ask({"pair": [loop, loop], "claim": "same", "to_torch": False})
        assert isinstance(answer, Lost) and "did not end within 2 s" in answer.how


def test_without_torch_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_BOOT", "import sys\nsys.modules['torch'] = None\n" + worker._BOOT)
    with pytest.raises(NoTorch, match=r"pip install 'clipcheck\[torch\]'"), Worker("sites") as one:
        one.ask({})
