"""The rules of the house: who may import whom, what start-up may cost, and that table, modules and folders agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck import examples as fixtures
from clipcheck import pages
from clipcheck.catalogue import RULES
from clipcheck.rule import Rule
from clipcheck.rules import check_of, page_of

PACKAGE = PROJECT / "clipcheck"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "libcst", "click", "numpy", "matplotlib", "pygls", "triton"}


def loaded_after(code: str, *modules: str) -> set[str]:
    """Which of `modules` are loaded in a fresh interpreter once `code` has run."""
    probe = f"import sys\n{code}\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=PROJECT)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, anywhere in it or only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if top_level_only and id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_the_runtime_imports_torch_and_nothing_of_ours() -> None:
    for path in (PACKAGE / "runtime").rglob("*.py"):
        ours = {m for m in imports(path) if m.startswith("clipcheck") and not m.startswith("clipcheck.runtime")}
        assert ours <= {"clipcheck"}, path
        assert not roots(imports(path)) & {"libcst", "click", "numpy"}, path


def test_only_verify_runtime_and_bench_import_torch() -> None:
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] not in ("verify", "runtime", "bench"):
            assert "torch" not in roots(imports(path)), path


def test_only_the_command_line_imports_click() -> None:
    users = {path.name for path in MODULES if "click" in roots(imports(path))}
    assert users <= {"cli.py", "color.py", "server.py", "options.py"}, users


def test_rule_imports_the_standard_library_alone() -> None:
    outside = roots(imports(PACKAGE / "rule.py", top_level_only=True)) - set(sys.stdlib_module_names)
    assert outside == set()


def test_reports_know_nothing_of_libcst() -> None:
    for path in (PACKAGE / "report").glob("*.py"):
        assert "libcst" not in roots(imports(path)), path


@pytest.mark.parametrize("module", ["libcst.matchers", "libcst.codemod"])
def test_slow_parts_of_libcst_stay_out(module: str) -> None:
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


def test_only_the_server_knows_the_editors_protocol() -> None:
    users = {path.name for path in MODULES if roots(imports(path)) & {"pygls", "lsprotocol"}}
    assert users == {"server.py", "buffers.py"}


def test_importing_the_server_loads_the_protocol_only() -> None:
    assert loaded_after("import clipcheck.editor.server", *HEAVY) == {"pygls"}


def test_importing_the_runtime_loads_torch_only() -> None:
    assert loaded_after("import clipcheck.runtime", "torch", "libcst", "click", "clipcheck.rule") == {"torch"}


def test_a_file_without_marks_never_loads_libcst(tmp_path: Path) -> None:
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


def test_every_rule_module_and_folder_is_in_the_table() -> None:
    modules = {path.stem for path in (PACKAGE / "rules").glob("*.py")} - {"__init__"}
    assert modules == {rule.module for rule in RULES.values()}
    folders = {path.name for path in fixtures.root().iterdir() if path.is_dir()}
    assert folders == {f"{rule.code}-{rule.name}" for rule in RULES.values()}


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_a_rule_is_whole(rule: Rule) -> None:
    assert re.fullmatch(r"CLIP\d{3}", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name.replace("0", "o").replace("1", "l"))
    assert callable(check_of(rule))
    headings = re.findall(r"^## (.+)$", page_of(rule), re.MULTILINE)
    assert headings == ["What it does", "Why is this bad?", "Fix safety", "References"]
    assert next(fixtures.examples(rule), None), "a rule without an example shows nothing"
    assert fixtures.clean(rule), "a rule without look-alikes was never tempted"
    assert rule.marks


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_messages_are_short_clauses(rule: Rule) -> None:
    from clipcheck.engine import file as engine
    from clipcheck.settings.keys import Settings

    for example in fixtures.examples(rule):
        report = engine.run("x.py", example.before.read_bytes(), Settings(codes=frozenset({rule.code})))
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


def test_the_readme_holds_the_table_of_rules() -> None:
    """`python -c "from clipcheck import pages; print(pages.table())"` prints it anew."""
    assert pages.table() in (PROJECT / "README.md").read_text(encoding="utf-8")
