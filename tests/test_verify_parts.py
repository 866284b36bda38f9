"""Small parts of the verification, each by itself: imports that are tried, ranks that wait, tables, where libraries lie."""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify import import_blocks, importing, libraries, pairs, replay, table  # noqa: E402
from clipcheck.verify.battery import Case  # noqa: E402
from clipcheck.verify.claims import Answer, Claim, Outcome  # noqa: E402
from clipcheck.verify.importing import load  # noqa: E402
from clipcheck.verify.pairs import Pair, Row  # noqa: E402
from clipcheck.verify.ranks import Collective, Group, Horovod, OutOfStep, Sharded, together  # noqa: E402
from clipcheck.verify.replay import listed  # noqa: E402
from clipcheck.verify.stand_ins import Aim, Setting, World  # noqa: E402
from clipcheck.verify.worker import Lost  # noqa: E402

# --- what a module imports --------------------------------------------------------------------------------------------------


def imports(text: str) -> list[Any]:
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return [f"def site():\n{lines}    return ('locals', bound__now())\n", {}]


def imported(before: str, after: str, needs_torch: bool = True) -> Answer:
    return load({"before": imports(before), "after": imports(after), "torch": needs_torch}, lambda case: None)


RUNTIME = "import clipcheck.runtime"
GUARDED = "try:\n    import torch\n    found = True\nexcept ImportError:\n    found = False"


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        ("import torch", "import torch", Answer(3)),
        ("import torch", f"import torch\n{RUNTIME}", Answer(3)),  # what needs torch may need clipcheck
        (GUARDED, GUARDED, Answer(3)),
        (GUARDED, f"{GUARDED}\n{RUNTIME}", Answer(2, (), "without torch", "the import raises ModuleNotFoundError")),
        ("import json", f"import json\n{RUNTIME}", Answer(2, (), "without torch", "the import raises ModuleNotFoundError")),
        (GUARDED, GUARDED.replace("False", "True"), Answer(2, (), "without torch", "`found` is False before and True after")),
        (GUARDED, GUARDED.replace("found = True", "found = False"), Answer(1, (), "all installed", "`found` is True before and False after")),
        ("import torch as t", "import clipcheck as t", Answer(3)),  # one module is as good as another
        ("t = None", "import torch as t", Answer(1, (), "all installed", "`t` is None before and a module after")),
        ("import nowhere.deep as n\nfrom far import away", "import nowhere.deep as n\nfrom far import away", Answer(3)),
        ("raise ImportError", "raise ImportError", Answer(3)),
        ("raise ImportError", "import torch", Answer(3)),
        ("import torch", "raise RuntimeError", Answer(1, (), "all installed", "the import raises RuntimeError")),
    ],
)  # fmt: skip
def test_what_imports_result_in(before: str, after: str, answer: Answer) -> None:
    assert imported(before, after) == answer


def test_what_never_imports_torch_has_it() -> None:
    assert imported("import json", f"import json\n{RUNTIME}", needs_torch=False) == Answer(2)


def test_cases_of_imports_are_told() -> None:
    at: list[str] = []
    load({"before": imports("import torch"), "after": imports("import torch"), "torch": True}, at.append)
    cases = ("all installed", "without torch", "without clipcheck")
    assert at == [f"{case}, {side}" for case in cases for side in ("before", "after")]


def test_torch_is_the_one_that_is_loaded_and_other_modules_are_stand_ins() -> None:
    import clipcheck.runtime

    find = importing._importer(())
    assert find("torch.nn") is torch
    assert find("torch.nn", wanted=("Module",)) is torch.nn
    assert find("clipcheck.runtime") is clipcheck
    assert repr(type(find("json"))) == repr(importing._Module)
    assert find("json.decoder")._path == "json"
    assert find("json.decoder", wanted=("x",))._path == "json.decoder"
    assert find("json", wanted=("x",)).decoder._path == "json.decoder"
    assert isinstance(find("torch", level=1), importing._Module)  # a module of the user's own package
    assert isinstance(importing._importer(("torch",))("torch", level=1), importing._Module)
    assert isinstance(find("torch.missing.module", wanted=("x",)), importing._Module)
    with pytest.raises(ModuleNotFoundError, match="No module named 'torch'"):
        importing._importer(("torch", "clipcheck"))("torch.nn")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("import a, b\nfrom c import d", ["import a, b", "from c import d"]),
        ("from __future__ import annotations", []),
        ("from a.b import *", ["import a.b"]),
        ("from . import *\nfrom .a import *", []),
        ("x = 1\nprint(x)\ndef f():\n    import a", []),
        ("try:\n    import a\nexcept ImportError:\n    a = None\n    b = 1", ["try:\n    import a\nexcept ImportError:\n    a = None"]),
        ("try:\n    import a\nexcept ImportError:\n    print(1)\nelse:\n    b = True", ["try:\n    import a\nexcept ImportError:\n    pass\nelse:\n    b = True"]),
        ("try:\n    import a\nexcept ImportError:\n    raise ValueError(x)", ["try:\n    import a\nexcept ImportError:\n    raise ImportError"]),
        ("try:\n    import a\nfinally:\n    x = None", ["import a"]),
        ("try:\n    x = None\nexcept ImportError:\n    import a", []),
        ("if x:\n    import a\nelse:\n    import b", ["import a"]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", ["import b"]),
        ("if typing.TYPE_CHECKING:\n    import a", []),
        ("a = None\nraise ImportError", []),
    ],
)  # fmt: skip
def test_a_module_as_far_as_it_imports(text: str, left: list[str]) -> None:
    assert [ast.unparse(ast.fix_missing_locations(node)) for node in import_blocks._blocks(ast.parse(text))] == left


# --- ranks ------------------------------------------------------------------------------------------------------------------


def rank(log: list[Any], *asked: Any) -> Any:
    for one in asked:
        log.append((yield one))


def vectors(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor([number]) for number in numbers]


def test_ranks_add_up_or_average_what_they_bring() -> None:
    first, second = vectors(1.0, 2.0), vectors(3.0, 6.0)
    log: list[Any] = []
    together([rank(log, Collective(first, False, lambda: "a")), rank(log, Collective(second, False, lambda: "b"))])
    assert log == ["a", "b"]
    assert [t.item() for t in (*first, *second)] == [4.0, 8.0, 4.0, 8.0]
    first, second = vectors(1.0), vectors(3.0)
    together([rank(log, Collective(first, True)), rank(log, Collective(second, True))])
    assert [t.item() for t in (*first, *second)] == [2.0, 2.0]
    assert log[2:] == [None, None]


def test_ranks_go_on_together() -> None:
    log: list[Any] = []
    together([rank(log, None, None), rank(log, None, None)])  # they may yield what is no call of all ranks
    assert log == [None] * 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([Collective(vectors(1.0), False)], []),
        ([Collective(vectors(1.0), False)], [None]),
        ([None], []),
        ([Collective(vectors(1.0), False)], [Collective([torch.ones(2)], False)]),
        ([Collective(vectors(1.0), False)], [Collective(vectors(1.0, 2.0), False)]),
    ],
)
def test_ranks_that_are_not_in_step(first: list[Any], second: list[Any]) -> None:
    with pytest.raises(OutOfStep):
        together([rank([], *first), rank([], *second)])


LIMIT = 0.5


def worlds(sharded: bool = False) -> list[World]:
    made = [World(Setting("", (4.0, 2.0)), Aim("norm", 2.0, LIMIT, True), r, 2, sharded) for r in range(2)]
    for one in made:
        one.backward(1.0)
    return made


def done(asked: list[Collective]) -> list[object]:
    results: list[object] = []
    together([rank(results, one) for one in asked])
    return results


def test_a_group_reduces_gradients() -> None:
    for method, divisor in (("all_reduce", 1), ("all_average", 2)):
        both = worlds()
        gradients = [one.parameters[0].grad.clone() for one in both]
        done([getattr(Group(one), method)(one.parameters[0].grad) for one in both])
        for one in both:
            assert torch.allclose(one.parameters[0].grad, sum(gradients) / divisor)
    assert Group(both[0]).get_world_size() == 2


def test_all_gradients_are_averaged_and_then_a_step_may_be_taken() -> None:
    for step in (False, True):
        both = worlds()
        both[0].parameters[1].grad = None
        other = both[1].parameters[1].grad.clone()
        optimizers = [Horovod(one, groups=2) for one in both]
        asked = [
            Group(one).optimizer_step(o) if step else Group(one).reduce_gradients(o)
            for one, o in zip(both, optimizers, strict=True)
        ]
        done(asked)
        for one in both:
            assert torch.allclose(one.parameters[1].grad, other / 2)  # one without a gradient counts as zero
            assert len(one.steps) == step


def test_horovod_averages_in_its_step_unless_that_is_skipped() -> None:
    both = worlds()
    optimizers = [Horovod(one) for one in both]
    assert done([o.step() for o in optimizers]) == [None, None]
    assert [len(one.steps) for one in both] == [1, 1]
    assert torch.equal(both[0].steps[0].taken[0], both[1].steps[0].taken[0])
    both = worlds()
    optimizers = [Horovod(one) for one in both]
    with optimizers[0].skip_synchronize():
        assert optimizers[0].step() is None
    assert len(both[0].steps) == 1 and len(both[1].steps) == 0
    assert isinstance(optimizers[0].step(), Collective)
    both = worlds()
    done([Horovod(one).synchronize() for one in both])
    assert torch.equal(both[0].parameters[0].grad, both[1].parameters[0].grad)
    assert [len(one.steps) for one in both] == [0, 0]


@pytest.mark.parametrize("norm_type", [2.0, 3.0])
def test_a_sharded_model_clips_by_the_norm_of_all(norm_type: float) -> None:
    both = worlds(sharded=True)
    whole = torch.cat([p.grad for one in both for p in one.parameters])
    norm = float(whole.norm(norm_type))
    found = done([Sharded(one).clip_grad_norm_(LIMIT, norm_type) for one in both])
    assert [float(one) for one in found] == pytest.approx([norm, norm])
    clipped = torch.cat([p.grad for one in both for p in one.parameters])
    assert torch.allclose(clipped, whole * LIMIT / norm, rtol=1e-4)
    again = done([Sharded(one).clip_grad_norm_(2 * LIMIT, norm_type) for one in both])
    assert [float(one) for one in again] == pytest.approx([LIMIT, LIMIT], rel=1e-4)
    assert torch.equal(clipped, torch.cat([p.grad for one in both for p in one.parameters]))


# --- sites on all cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("titles", "count", "text"),
    [
        (["a"], 1, "in every case"),
        (["a", "b"], 2, "in every case"),
        (["a"], 9, "with a"),
        (["a", "b"], 9, "with a and b"),
        (["a", "b", "c"], 9, "with a, b and c"),
        (["a", "b", "c", "d"], 9, "with a, b, c and d"),
        (["a", "b", "c", "d", "e"], 9, "with a, b, c and 2 more"),
        (["a", "b", "c", "d", "e", "f"], 9, "with a, b, c and 3 more"),
    ],
)
def test_cases_are_listed(titles: list[str], count: int, text: str) -> None:
    assert listed(titles, count) == text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_side_that_is_less_accurate_on_average_is_refuted(dtype: Any) -> None:
    unit = torch.finfo(dtype).eps
    name = str(dtype).removeprefix("torch.")
    worse = {dtype: [(unit, 0.0), (unit, 4.6 * unit)]}
    found = replay._accuracy(Answer(7, ("x",), why="y"), worse)
    assert found == Answer(
        7, ("x",), "all cases", f"further from float64 in {name}", f"{unit:.2g}", f"{2.3 * unit:.2g}"
    )
    fine = {dtype: [(unit, 0.0), (unit, 4.4 * unit)]}
    assert replay._accuracy(Answer(7), fine) == Answer(7)


def test_what_is_seen_of_a_side() -> None:
    case = Case("", lambda: [torch.tensor([3.0]), None], seed=1.5)

    def program(names: dict[str, Any]) -> Any:
        def site(total: float) -> Any:
            names["p"][0].grad.mul_(2)
            found = {"total": total, "value__0": names["g"][0], "other": 1, "kept": None, "x__value__": 2}
            return "locals", found

        return site

    seen = replay._run(program, case, {"p": "parameters", "g": "gradients"}, ["total"], ["total", "kept"])
    assert seen.values == {"total": [1.5], "the value": [torch.tensor([6.0])], "kept": []}
    assert [None if g is None else g.item() for g in seen.gradients] == [6.0, None, 6.0, None]
    assert [p.tolist() for p in seen.parameters] == [[0.0], [1.0, 1.0]]
    assert seen.raised is None
    returned = replay._run(lambda names: lambda: ("return", [1, 2]), case, {}, [], [])
    assert returned.values == {"the result": [1, 2]}
    error = ValueError()

    def raising(names: dict[str, Any]) -> Any:
        def site() -> Any:
            raise error

        return site

    assert replay._run(raising, case, {}, [], []) == ({}, [], [], error)
    assert replay._shown("value__1", {"value__0": 1, "value__1": 2}) == "value 1"
    assert replay._shown("total", {"value__0": 1}) == "total"


def test_float64_is_the_default_where_the_case_is_in_it() -> None:
    case = Case("", list)
    found = [replay._run(lambda names: lambda: ("return", torch.zeros(1).dtype), one, {}, [], []).values["the result"]
             for one in (case, case.as_float64(), case._replace(dtype=torch.bfloat16))]  # fmt: skip
    assert found == [[torch.float32], [torch.float64], [torch.float32]]


def test_what_is_not_installed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replay.compiled_site(["def site():\n    return torch__gone()", {"torch__gone": "torch.gone"}])
    with pytest.raises(ImportError, match=r"torch\.gone is not part of what is installed"):
        made({})(total=1)


def test_a_side_has_no_builtins() -> None:
    made = replay.compiled_site(["def site():\n    return len([])", {}])
    with pytest.raises(NameError):
        made({})()
    made = replay.compiled_site(
        ["def site(x):\n    return builtins__len(x), y, bound__now()", {"builtins__len": "builtins.len"}]
    )
    assert made({"y": 2})([1]) == (1, 2, {"x": [1]})


# --- where libraries lie ----------------------------------------------------------------------------------------------------


def folders(tmp_path: Path, *names: str) -> list[str]:
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    return [str(tmp_path / name) for name in names]


def with_path(monkeypatch: pytest.MonkeyPatch, *entries: str, isolated: int = 0) -> None:
    monkeypatch.setattr(libraries, "sys", SimpleNamespace(path=list(entries), flags=SimpleNamespace(isolated=isolated)))


def test_only_installed_packages_are_on_a_workers_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, site, dist, other = folders(tmp_path, "site-packages", "a/site-packages", "b/dist-packages", "c/lib")
    monkeypatch.setattr(libraries.PathFinder, "find_spec", lambda name, path: SimpleNamespace(origin=None))
    with_path(monkeypatch, script, site, dist, other, str(tmp_path / "missing" / "site-packages"), "")
    assert libraries.path() == [site, dist]
    with_path(monkeypatch, script, site + os.sep, isolated=1)  # the script's folder is not on it then
    assert libraries.path() == [script, site]


def test_torch_that_is_installed_elsewhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, site, built, here = folders(tmp_path, "script", "a/site-packages", "built", "here")
    for folder in (built, here):
        (Path(folder) / "torch").mkdir()
        (Path(folder) / "torch" / "__init__.py").touch()
    monkeypatch.chdir(here)
    with_path(monkeypatch, script, here, site, built)
    assert libraries.path() == [site, built]
    with_path(monkeypatch, script, here, site)
    assert libraries.path() == [site]
    (Path(script) / "more" / "torch").mkdir(parents=True)  # a folder of that name, and no package
    with_path(monkeypatch, script, str(Path(script) / "more"), site)
    assert libraries.path() == [site]
    (Path(site) / "torch").mkdir()
    (Path(site) / "torch" / "__init__.py").touch()
    with_path(monkeypatch, script, here, site, built)
    assert libraries.path() == [site]


def test_what_loading_a_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.os.path, "isdir", lambda folder: folder in ("/usr/lib", "/lib64"))
    found = libraries.readable(["/a/site-packages"])
    assert found[0] == "/a/site-packages"
    assert len(found) == len(set(found))
    assert str(Path(libraries.__file__).parents[1]) in found
    assert {os.path.dirname(os.__file__), os.path.join(sys.prefix, "lib"), os.path.join(sys.base_prefix, "lib")} <= {
        *found
    }
    assert [folder for folder in found if folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")] == [
        "/lib64",
        "/usr/lib",
    ]


# --- fixtures -----------------------------------------------------------------------------------------------------------------


class Asked:
    """A worker that notes what it is asked, and answers with what it was made with."""

    made: ClassVar[list[Asked]] = []

    def __init__(self, kind: str, seconds: float) -> None:
        self.kind, self.seconds, self.stopped = kind, seconds, False
        self.requests: list[Any] = []
        Asked.made.append(self)

    def ask(self, request: Any) -> Any:
        self.requests.append(request)
        return [True, "fine", 0.5, "after", 2.0, ["a note"]]

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    monkeypatch.setattr(Asked, "made", [])
    monkeypatch.setattr(pairs, "Worker", Asked)
    return Asked.made


def pair(first: str = "# claim: same", **more: Any) -> Pair:
    return Pair("CLIP001/after", f"{first}\nx", "y", False)._replace(**more)


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        (pair(suffix=".ipynb"), Row("CLIP001/after", Claim("same"), Outcome(None, "a .ipynb file is not a program"))),
        (pair("import torch"), Row("CLIP001/after", None, Outcome(False, "the first line of the example claims nothing"))),
        (pair("# claim: finite, not verified here: no GPU"), Row("CLIP001/after", Claim("finite", "no GPU"), Outcome(None, "no GPU"))),
        (pair(), Row("CLIP001/after", Claim("same"), Outcome(True, "fine", 0.5, "after", 2.0, ("a note",)))),
    ],
)  # fmt: skip
def test_a_pair_becomes_a_row(workers: list[Asked], asked: Pair, row: Row) -> None:
    done: list[int] = []
    assert pairs.verify([asked], 4, lambda: done.append(1)) == [row]
    assert done == [1]
    (worker,) = workers
    assert (worker.kind, worker.seconds, worker.stopped) == ("fixtures", 60.0, True)


def test_what_a_worker_is_asked_of_a_pair(workers: list[Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs.verify([pair(to_torch=True)], 1)
    assert workers[0].requests == [{"pair": ["# claim: same\nx", "y"], "claim": "same", "to_torch": True}]
    monkeypatch.setattr(Asked, "ask", lambda self, request: Lost("the pair", "ended the process with status 3"))
    (row,) = pairs.verify([pair()], 1)
    assert row.outcome == Outcome(False, "the experiment ended the process with status 3")


@pytest.mark.parametrize(
    ("count", "jobs", "made"), [(1, 8, 1), (23, 8, 1), (24, 8, 2), (48, 8, 3), (48, 2, 2), (0, 0, 1)]
)
def test_a_worker_more_for_every_24_pairs(workers: list[Asked], count: int, jobs: int, made: int) -> None:
    assert len(pairs.verify([pair()] * count, jobs)) == count
    assert len(workers) == made
    assert all(worker.stopped for worker in workers)


def test_all_examples_with_a_fix_are_pairs() -> None:
    found = pairs.find(("CLIP002", "CLIP001"))
    names = [one.name for one in found]
    assert names[0] == "CLIP002/after" and len(names) == len(set(names))
    assert [one.to_torch for one in found] == ["torch" in name for name in names]
    codes = [name.partition("/")[0] for name in names]
    assert codes == sorted(codes, reverse=True)
    first = next(one for one in found if one.name == "CLIP002/after")
    assert "clip_grad_norm(" in first.before and "clip_grad_norm_(" in first.after
    assert {one.suffix for one in found} >= {".py"}


ROWS = [
    Row("CLIP001/after", Claim("same"), Outcome(True, "", 1.25e-7, "after", 0.5, ("a note",))),
    Row("CLIP002/after", Claim("same"), Outcome(True, "", 0.0, "equal", 1.0)),
    Row("X", None, Outcome(False, "claims nothing")),
    Row("Y", Claim("finite", "no GPU"), Outcome(None, "no GPU")),
]


def test_rows_as_a_table() -> None:
    assert table.table(ROWS).splitlines() == [
        "fixture        claim   verdict            difference  nearer  time",
        "CLIP001/after  same    holds              1.2e-07     after   0.50x",
        "    a note",
        "CLIP002/after  same    holds              bitwise     equal   1.00x",
        "X              none    FAILS",
        "    claims nothing",
        "Y              finite  not verified here",
        "    no GPU",
        "",
        "difference: largest, relative; nearer: to a run in float64; time: after / before, lower is faster",
        "2 held, 1 failed, 1 not verified here.",
    ]
    assert table.table(ROWS).endswith(".\n")
    assert table.failed(ROWS) and not table.failed([ROWS[0], ROWS[3]])


def test_a_long_reason_is_wrapped() -> None:
    lines = table.table([Row("X", None, Outcome(False, "word " * 40))]).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line[:8] for line in lines if line.startswith("    ")] == ["    word"] * 3


def test_rows_as_json() -> None:
    first, second, third, fourth = json.loads(table.as_json(ROWS))
    assert first == {"claim": "same", "difference": 1.25e-7, "fixture": "CLIP001/after", "nearer": "after",
                     "notes": ["a note"], "reason": None, "time_ratio": 0.5, "verdict": "holds"}  # fmt: skip
    assert (second["difference"], third["claim"], third["reason"], third["nearer"]) == (
        0.0,
        None,
        "claims nothing",
        None,
    )
    assert [row["verdict"] for row in (first, second, third, fourth)] == [
        "holds",
        "holds",
        "fails",
        "not-verified-here",
    ]
    keys = list(first)
    assert keys == sorted(keys)
    assert table.as_json(ROWS).startswith('[\n  {\n    "claim"')
