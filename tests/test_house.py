"""The architecture: who may import whom, what start-up may load, and that table, modules and folders agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck import pages
from clipcheck.catalogue import RULES
from clipcheck.examples import clean, examples, root
from clipcheck.rule import Rule, Tier
from clipcheck.rules import check_of, page_of

PACKAGE = PROJECT / "clipcheck"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "libcst", "click", "numpy", "matplotlib", "pygls", "triton"}


def loaded_after(code: str, *modules: str) -> set[str]:
    """Which of `modules` are loaded in a new interpreter after `code` has run."""
    probe = f"import sys\n{code}\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=PROJECT)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


# Who may import whom: a folder, or a file at the top, sees only itself and what is listed here. From top to bottom it
# is the flow of the data. `clipcheck` means the package itself, which contains the version.
SEES = {
    "clipcheck": "",
    "rule": "",
    "formats": "",
    "disk": "",
    "extras": "",
    "catalogue": "rule",
    "site": "catalogue",
    "settings": "clipcheck rule formats disk catalogue",
    "documents": "rule extras",
    "python": "rule documents",
    "gradients": "python",
    "prefilter": "rule catalogue python gradients",
    "training": "python gradients",
    "fixes": "rule python gradients training",
    "rules": "rule python gradients training fixes",
    "engine": "clipcheck rule disk catalogue prefilter settings documents python fixes rules",
    "examples": "rule",
    "pages": "rule catalogue site settings rules engine examples",
    "report": "clipcheck rule formats disk catalogue site documents rules engine pages",
    "runtime": "",
    "integrations": "runtime",
    "startup": "runtime",
    "run": "",
    "verify": "rule extras catalogue documents python training examples",
    "plots": "",
    "bench": "runtime plots",
    "audit": "catalogue runtime plots bench",
    "api": "rule catalogue settings documents engine verify",
    "editor": "clipcheck rule catalogue site settings documents engine pages",
    "cli": "clipcheck rule formats disk extras catalogue settings documents engine pages report api editor verify "
    "audit bench",
    "__main__": "cli",
}
# Third-party packages that may be imported; nothing else may be, besides the standard library.
OUTSIDE = {
    "settings": "packaging tomli tomllib",
    "documents": "markdown_it",
    "python": "libcst",
    "gradients": "libcst",
    "training": "libcst",
    "fixes": "libcst",
    "rules": "libcst",
    "rule": "libcst",  # only a type
    "runtime": "torch triton",
    "audit": "torch matplotlib",
    "verify": "libcst torch",
    "plots": "matplotlib",
    "bench": "torch triton click matplotlib",
    "editor": "click pygls lsprotocol",
    "cli": "click watchfiles",
}


def home(path: Path) -> str:
    """The folder of a module, or its own name if it is at the top."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "clipcheck" if first == "__init__" else first


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, including lazily or only for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for alias in names:
                    inner = f"{module}.{alias.name}"
                    found.add(inner if inner in MODULE_NAMES else module)
            case ast.ImportFrom():
                raise AssertionError(f"{path}: a relative import")
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULE_NAMES = {name_of(path) for path in MODULES}


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == "clipcheck"}


def rooms(modules: set[str]) -> set[str]:
    """The folders of clipcheck's modules."""
    return {module.split(".")[1] if "." in module else "clipcheck" for module in ours(modules)}


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_every_folder_is_listed_and_every_listed_folder_exists() -> None:
    assert len(MODULES) > 100
    assert {home(path) for path in MODULES} == set(SEES)


def test_the_table_has_no_circles() -> None:
    above: set[str] = set()
    for room, seen in SEES.items():
        assert set(seen.split()) <= above, f"{room} sees what is listed below it"
        above.add(room)


@pytest.mark.parametrize("room", SEES)
def test_a_folder_imports_only_what_the_table_lists(room: str) -> None:
    seen = {other for path in MODULES if home(path) == room for other in rooms(imports(path))} - {room}
    assert seen == set(SEES[room].split())


@pytest.mark.parametrize("room", SEES)
def test_a_folder_imports_only_listed_packages(room: str) -> None:
    outside = {m for path in MODULES if home(path) == room for m in roots(imports(path))}
    outside -= {"clipcheck", "__future__", *sys.stdlib_module_names}
    assert outside <= set(OUTSIDE.get(room, "").split())


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): ours(imports(path)) - {name_of(path)} for path in MODULES}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_only_runtime_audit_verify_and_bench_may_import_torch() -> None:
    allowed = {"runtime", "audit", "verify", "bench"}
    assert {room for room, packages in OUTSIDE.items() if "torch" in packages.split()} == allowed


def test_no_file_and_no_function_is_long() -> None:
    """Complexity and nesting are measured by ruff; docstrings do not count."""
    long = [path.name for path in MODULES if path.read_text(encoding="utf-8").count("\n") > 350]
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if (node.end_lineno or 0) - first.lineno + 1 > 40:
                    long.append(f"{path.name}: {node.name}")
    assert long == []


@pytest.mark.parametrize("module", ["libcst.matchers", "libcst.codemod"])
def test_slow_parts_of_libcst_are_not_used(module: str) -> None:
    everything = "\n".join(f"import clipcheck.rules.{rule.module}" for rule in RULES.values())
    assert (
        loaded_after(
            f"import clipcheck.engine.file, clipcheck.python.source, clipcheck.fixes.verbs\n{everything}", module
        )
        == set()
    )


def test_importing_the_package_costs_nothing() -> None:
    assert loaded_after("import clipcheck", *HEAVY, "dataclasses", "json", "re") <= {"re"}


def test_importing_the_command_line_loads_click_only() -> None:
    assert loaded_after("import clipcheck.cli.main", *HEAVY) == {"click"}


def test_importing_the_python_interface_loads_nothing_heavy() -> None:
    assert loaded_after("import clipcheck.api", *HEAVY) == set()


def test_the_python_interface_loads_libcst_when_it_is_used_and_never_torch() -> None:
    text = "import torch\\n\\ntorch.nn.utils.clip_grad_norm([], 1.0)\\n"
    code = f"from clipcheck import api\nassert api.fix('{text}').fixed"
    assert loaded_after(code, "libcst", "torch", "click") == {"libcst"}


def test_importing_the_server_loads_the_protocol_only() -> None:
    assert loaded_after("import clipcheck.editor.server", *HEAVY) == {"pygls"}


def test_importing_the_runtime_loads_torch_only() -> None:
    pytest.importorskip("torch")
    assert loaded_after("import clipcheck.runtime", "torch", "libcst", "click", "clipcheck.rule") == {"torch"}


def test_importing_the_audit_loads_torch_and_the_table_of_rules_only() -> None:
    pytest.importorskip("torch")
    modules = ("torch", "libcst", "click", "matplotlib", "clipcheck.catalogue", "clipcheck.engine", "clipcheck.rules")
    loaded = loaded_after("import clipcheck.audit, clipcheck.audit.__main__", *modules)
    assert loaded == {"torch", "clipcheck.catalogue"}


def test_a_file_without_keywords_never_loads_libcst(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("print('hello')\n" * 50)
    code = (
        "from clipcheck.cli.main import main\n"
        f"try: main(['check', '--isolated', '--no-cache', {str(tmp_path)!r}])\n"
        "except SystemExit as done: assert done.code == 0"
    )
    assert loaded_after(code, "libcst", "torch") == set()


def test_check_and_fix_never_load_torch(tmp_path: Path) -> None:
    train = tmp_path / "train.py"
    train.write_text("import torch\n\ntorch.nn.utils.clip_grad_norm([], 1.0)\n")
    code = (
        "from clipcheck.cli.main import main\n"
        f"try: main(['check', '--fix', '--isolated', '--no-cache', {str(train)!r}])\n"
        "except SystemExit as done: assert done.code == 0"
    )
    assert loaded_after(code, "libcst", "torch") == {"libcst"}
    assert "clipcheck.runtime" in train.read_text()


# --- the table, the modules and the folders ---------------------------------------------------------------------


# The sections of a rule's page in their order.
HEADINGS = (
    "What it does",
    "Why is this bad?",
    "Why is this rule opt-in?",
    "How to fix by hand",
    "Fix safety",
    "When to suppress it",
    "References",
)


def test_every_rule_module_and_folder_is_in_the_table() -> None:
    modules = {path.stem for path in (PACKAGE / "rules").glob("*.py")} - {"__init__"}
    assert modules == {rule.module for rule in RULES.values()}
    folders = {path.name for path in root().iterdir() if path.is_dir()}
    assert folders == {f"{rule.code}-{rule.name}" for rule in RULES.values()}


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_a_rule_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"CLIP\d{3}", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name.replace("0", "o").replace("1", "l"))
    assert callable(check_of(rule))
    headings = re.findall(r"^## (.+)$", page_of(rule), re.MULTILINE)
    assert [heading for heading in HEADINGS if heading in headings] == headings, "unknown or out of order"
    optional = set() if rule.tier is Tier.OPT_IN else {"Why is this rule opt-in?"}
    assert set(HEADINGS) - set(headings) == optional
    assert next(examples(rule), None), "a rule without an example shows nothing"
    assert clean(rule), "a rule without look-alikes was never tempted"
    assert rule.needs or rule.near, "its check would run on every file"


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_messages_are_short_clauses(rule: Rule) -> None:
    from clipcheck.engine.file import check_file
    from clipcheck.settings.keys import Settings

    for example in examples(rule):
        report = check_file("x.py", example.before.read_bytes(), Settings(codes=frozenset({rule.code})))
        for finding in report.findings:
            assert len(finding.message) <= 100, finding.message
            assert not finding.message.endswith((".", "!")), finding.message
            assert finding.message[0] == "`" or finding.message[0].islower() or finding.message[:4].isupper()
            if finding.fix:
                assert finding.fix.title[0].isupper()
                assert not finding.fix.title.endswith(".")


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_the_page_shows_the_example(rule: Rule) -> None:
    page = pages.page(rule)
    assert page.startswith(f"# {rule.code} `{rule.name}`")
    assert "## Example" in page
    assert "# expect" not in page
    assert "# claim" not in page
