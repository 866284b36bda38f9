"""Which tests stand for each line of the source: what `make mutate-source` runs when that line is changed.

Which test runs which line comes from coverage's contexts, subprocesses included; it is kept in `build/mutation` for as
long as the package and the test file stay the same. What coverage cannot see has tests that stand for it: a statement
that runs when its module is imported, those of the module's functions and of what imports it; the verification's worker
process (no environment, killed at its end), those that send it a request: they come after those that run the line itself.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import coverage
from source_mutants import Mutant
from source_trees import COVERAGE, TEST

WORKER = "clipcheck/verify/worker.py"  # its `ask` sends a request
SERVES = "clipcheck/verify/serve.py"  # what the worker's process runs

Lines = dict[str, dict[int, set[str]]]  # file → line → the tests that run it


@cache
def imports(text: str) -> frozenset[str]:
    """The names of what a module imports, anywhere in it; those of functions and classes are among them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                found.update((module, *(f"{module}.{alias.name}" for alias in names)))
    return frozenset(found)


def importers(path: str, texts: dict[str, str]) -> list[str]:
    """The files that import the module at `path`."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return [other for other, text in texts.items() if module in imports(text)]


def loaded(path: str, texts: dict[str, str]) -> set[str]:
    """The files that the module at `path` imports, directly or not, and itself."""
    found = {path}
    rest = texts.keys() - found
    while more := {other for other in rest if not found.isdisjoint(importers(other, texts))}:
        found |= more
        rest -= more
    return found


def lines_of(function: str, text: str) -> range:
    """The lines of the body of the first function of a name."""
    named = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == function)
    node = next(named)
    return range(node.body[0].lineno, (node.end_lineno or 0) + 1)


def measured(tree: Any, file: str, package: str) -> dict[str, Any]:
    """The durations and failures of one test file's tests, and the lines that each of them runs in a scratch copy."""
    key = hashlib.sha256(package.encode() + (tree.root / file).read_bytes()).hexdigest()[:16]
    kept = Path(__file__).resolve().parent.parent / "build" / "mutation" / f"{Path(file).stem}-{key}.json"
    if kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "rc"
        config.write_text(
            f"[run]\nsource = {tree.root / 'clipcheck'}\ndata_file = {folder}/data\nparallel = true\ncore = ctrace\n"
            f"sigterm = true\ndisable_warnings = no-data-collected\ncontext = ${{{TEST}-}}\n",
            encoding="utf-8",
        )
        out = Path(folder) / "out.json"
        code = tree.pytest([file], {"words": [], "out": str(out)}, 3600, **{COVERAGE: str(config)})
        if not out.exists():
            raise SystemExit(f"pytest does not run {file}: exit code {code}")
        answer: dict[str, Any] = json.loads(out.read_text("utf-8"))
        answer["lines"] = _lines(Path(folder), tree.root)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(answer), encoding="utf-8")
    return answer


def _lines(folder: Path, root: Path) -> dict[str, dict[int, list[str]]]:
    found: Lines = {}
    for path in folder.glob("data.*"):
        data = coverage.CoverageData(str(path))
        data.read()
        for file in data.measured_files():
            lines = found.setdefault(Path(file).relative_to(root).as_posix(), {})
            for line, tests in data.contexts_by_lineno(file).items():
                lines.setdefault(line, set()).update(test for test in tests if test)
    return {name: {line: sorted(tests) for line, tests in lines.items()} for name, lines in found.items()}


class Map:
    """The tests that stand for each line of the package, and how long each takes."""

    def __init__(self, answers: Iterable[dict[str, Any]], texts: dict[str, str]) -> None:
        self.texts = texts  # of the package and of the tests
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.lines: Lines = {}
        for answer in answers:
            self.seconds |= answer["seconds"]
            self.failed |= set(answer["failed"])
            for file, lines in answer["lines"].items():
                for line, tests in lines.items():
                    self.lines.setdefault(file, {}).setdefault(int(line), set()).update(tests)

        self.in_worker = loaded(SERVES, {name: text for name, text in texts.items() if name.startswith("clipcheck/")})
        self.asking = self.of_lines(WORKER, lines_of("ask", texts[WORKER]))

    def tests(self, mutant: Mutant) -> list[str]:
        """The quickest ones first; those that run the mutant in the worker's process come last."""
        found = self.of_lines(mutant.path, range(mutant.first, mutant.last + 1))
        if mutant.at_import:
            for file in (mutant.path, *importers(mutant.path, self.texts)):
                found |= self.of_file(file)
        more = self.asking - found if mutant.path in self.in_worker else set()
        sound = self.seconds.keys() - self.failed
        return sorted((found | more) & sound, key=lambda test: (test in more, self.seconds[test], test))

    def of_lines(self, file: str, lines: Iterable[int]) -> set[str]:
        known = self.lines.get(file, {})
        return {test for line in lines for test in known.get(line, ())}

    def of_file(self, file: str) -> set[str]:
        """The tests of a test file, or those that run a line of a module."""
        if file.startswith("tests/"):
            return {test for test in self.seconds if test.startswith(f"{file}::")}
        return {test for tests in self.lines.get(file, {}).values() for test in tests}

    def chosen(self, mutant: Mutant, budget: float) -> dict[str, list[str]]:
        """The first tests that fit into the budget, by file, the file of the quickest ones first."""
        found = self.tests(mutant)
        spent = itertools.accumulate(map(self.seconds.__getitem__, found))
        within = [test for test, so_far in zip(found, spent, strict=True) if so_far <= budget]
        files: dict[str, list[str]] = {}
        for test in within or found[:1]:
            files.setdefault(test.partition("::")[0], []).append(test)
        return dict(sorted(files.items(), key=lambda item: self.total(item[1]) / len(item[1])))

    def total(self, tests: Iterable[str]) -> float:
        return sum(map(self.seconds.__getitem__, tests))
