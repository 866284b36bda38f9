"""`make mutate-source`: changes clipcheck's own source in random places, and counts how many changes its tests notice.

The mutants are applied in scratch copies of the project, never in the checkout. For each one, only the tests that run
the changed statement are run, in the order of their duration, until one fails. Tests that need the corpus beside the
checkout are not among them, and a mutant gets at most `--budget` seconds of tests: both can only lower the figure.

mutmut and cosmic-ray were considered. mutmut leaves out what is not in a function and what is decorated, which is half
of this package: tables, patterns, properties. cosmic-ray mutates the checkout and runs one command for all mutants.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import queue
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from source_mutants import Mutant, alters, mutants
from source_tests import Map, measured
from source_trees import PROJECT, Tree

KERNELS = ("clipcheck/runtime/cuda.py", "clipcheck/runtime/kernels.py")  # what a GPU or Triton runs


class Result(NamedTuple):
    mutant: Mutant
    killer: str  # "" for a survivor
    ran: int


def tried(tree: Tree, mutant: Mutant, tests: dict[str, list[str]], known: Map) -> Result:
    """Whether one of these tests fails with the mutant; file by file, so that those of one file are enough for most."""
    original = (tree.root / mutant.path).read_bytes().decode()
    out = tree.root.parent / f"{tree.root.name}.out"
    killer = ""
    tree.write(mutant.path, mutant.applied(original))
    for file, those in tests.items():
        out.unlink(missing_ok=True)
        patience = 60 + 10 * max(map(known.seconds.__getitem__, those))  # for one test, before it counts as a hang
        words = ["-x", "-o", f"faulthandler_timeout={patience}", "-o", "faulthandler_exit_on_timeout=true"]
        code = tree.pytest(
            [file], {"words": words, "tests": those, "out": str(out)}, 10 * known.total(those) + 2 * patience
        )
        if code not in (0, 5):  # all passed, or none was left to run
            failed = json.loads(out.read_text("utf-8"))["failed"] if out.exists() else []
            killer = failed[0] if failed else "a hang" if code in (None, 1) else "an error at the start"
            break
    tree.write(mutant.path, original)
    return Result(mutant, killer, sum(map(len, tests.values())))


def report(results: list[Result], texts: dict[str, str], seed: int) -> None:
    alive = sorted((r for r in results if not r.killer), key=lambda r: (r.mutant.path, r.mutant.first))
    for result in alive:
        mutant = result.mutant
        old = texts[mutant.path]
        new = mutant.applied(old)
        name = f"{mutant.path}:{mutant.first} {mutant.what} ({result.ran} tests)"
        print(*difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, "", "", 1, ""), sep="\n")
    killed = len(results) - len(alive)
    unrun = sum(not result.ran for result in alive)
    print(f"\nseed {seed}: {killed} of {len(results)} mutants killed ({killed / max(len(results), 1):.1%}); "
          f"{len(alive)} survive, {unrun} of them where no test runs the line")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many mutants (default 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="the starts of the paths to mutate, such as clipcheck/engine/"
    )
    parser.add_argument("--tests", nargs="+", default=["test_*.py"], help="the test files that count, as patterns")
    parser.add_argument("--budget", type=float, default=90, help="seconds of tests for a mutant (default 90)")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8))
    given = parser.parse_args()
    sources = sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "clipcheck").rglob("*.py"))
    texts = {name: (PROJECT / name).read_bytes().decode() for name in sources}
    everything = [m for name in sources if name not in KERNELS for m in mutants(name, texts[name])]
    everything = [m for m in everything if m.path.startswith(tuple(given.only))]
    random.Random(given.seed).shuffle(everything)
    sample = list(itertools.islice((m for m in everything if alters(m, texts[m.path])), given.sample))
    package = json.dumps(texts)
    paths = {path for pattern in given.tests for path in (PROJECT / "tests").glob(pattern)}
    files = [f"tests/{path.name}" for path in sorted(paths, key=lambda path: -path.stat().st_size)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        free: queue.Queue[Tree] = queue.Queue()
        for number in range(given.jobs):
            free.put(Tree(Path(folder) / str(number) / "project"))

        def with_tree(work: Any, *rest: Any) -> Any:
            tree = free.get()
            try:
                return work(tree, *rest)
            finally:
                free.put(tree)

        tests = {file: (PROJECT / file).read_text("utf-8") for file in files}
        known = Map(pool.map(lambda file: with_tree(measured, file, package), files), {**texts, **tests})
        print(f"{len(everything)} mutants, {len(known.seconds)} tests; left out, as they fail without a mutant: "
              f"{', '.join(sorted(known.failed)) or 'none'}", file=sys.stderr)  # fmt: skip

        def judged(mutant: Mutant) -> Result:
            tests = known.chosen(mutant, given.budget)
            result: Result = with_tree(tried, mutant, tests, known)
            print(f"{mutant.path}:{mutant.first} {mutant.what}: {result.killer or 'SURVIVES'}", file=sys.stderr)
            return result

        results = list(pool.map(judged, sample))
        report(unshaken(results, known, free, judged), texts, given.seed)
        for tree in free.queue:
            tree.close()
    return 0


def unshaken(results: list[Result], known: Map, free: queue.Queue[Tree], judged: Any) -> list[Result]:
    """The results with those repeated whose killer fails without a mutant as well, now and then."""
    killers = sorted({r.killer for r in results} & known.seconds.keys())
    if not killers:
        return results
    tree = free.queue[0]
    out = tree.root.parent / "again.json"
    files = dict.fromkeys(test.partition("::")[0] for test in killers)
    tree.pytest(files, {"words": [], "tests": killers, "out": str(out)}, 3600)
    shaky = set(json.loads(out.read_text("utf-8"))["failed"])
    known.failed |= shaky
    return [judged(result.mutant) if result.killer in shaky else result for result in results]


if __name__ == "__main__":
    sys.exit(main())
