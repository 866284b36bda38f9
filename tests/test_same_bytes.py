"""A fix produces the same bytes on the command line, from Python, and in an editor, one by one or all at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import runner

pytest.importorskip("pygls")

from lsprotocol import types as lsp
from test_fixtures import FIXED, identify

from clipcheck import api
from clipcheck.cli.main import main
from clipcheck.editor.opened import Opened, changes_of, differences
from clipcheck.editor.texts import Text
from clipcheck.engine.file import check_text
from clipcheck.examples import Example
from clipcheck.rule import Place, Rule, Safety
from clipcheck.settings.keys import Settings


@pytest.fixture(scope="module")
def on_the_command_line(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Every example after `--fix` with its rule: one run per rule, which fixes all of its examples."""
    results = {}
    for rule in {rule.code: rule for rule, _ in FIXED}.values():
        folder = tmp_path_factory.mktemp(rule.code)
        copies = {example.before: folder / example.before.name for other, example in FIXED if other is rule}
        for path, copy in copies.items():
            copy.write_bytes(bare(path).encode())
        words = ["check", "--fix", "--unsafe-fixes", "--isolated", "--no-cache", "--jobs", "1", "--select", rule.code]
        result = runner().invoke(main, [*words, str(folder)])
        assert result.exit_code in (0, 1), result.output
        results |= {path: copy.read_bytes() for path, copy in copies.items()}
    return results


def bare(path: Path) -> str:
    """An example without the comments that other tests read, which may prevent a fix."""
    return re.sub(r"[ \t]*# expect:.*", "", path.read_bytes().decode())


def opened(text: str) -> Opened:
    return Opened("file:///x.py", "x.py", text, {None: Text("file:///x.py", text)})


def applied(text: str, changes: list[tuple[Place, str]]) -> str:
    """A string after changes, as an editor applies them: all positions refer to the original string."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for place, new in sorted(changes, reverse=True):
        start, end = starts[place.line - 1] + place.column - 1, starts[place.end_line - 1] + place.end_column - 1
        text = text[:start] + new + text[end:]
    return text


@pytest.mark.parametrize(("rule", "example"), FIXED, ids=identify)
def test_every_way_to_fix_gives_the_same_bytes(
    rule: Rule, example: Example, on_the_command_line: dict[Path, bytes]
) -> None:
    wanted = on_the_command_line[example.before].decode()
    before = bare(example.before)
    assert wanted != before
    settings = Settings(frozenset({rule.code}), safety=Safety.UNSAFE)

    assert api.fix(before, select=[rule.code], unsafe=True, isolated=True, filename="x.py").text == wanted

    whole = check_text("x.py", before, Settings(frozenset({rule.code}), fix=True, safety=Safety.UNSAFE))
    assert applied(before, list(differences(opened(before), whole.now.decode()))) == wanted

    text = before  # one quick fix after the other
    for _ in range(20):
        report = check_text("x.py", text, settings)
        fixable = [finding for finding in report.findings if finding.fix is not None]
        if not fixable:
            break
        text = applied(text, list(changes_of(opened(text), report, fixable[0])))
    assert text == wanted


def test_a_quick_fix_is_what_the_editor_offers() -> None:
    """The changes above are those of the action that a client gets."""
    from clipcheck.editor.answers import quick_fixes

    text = "import torch\n\ntorch.nn.utils.clip_grad_norm(ps, 1.0)\n"
    at, report = opened(text), check_text("x.py", text, Settings(frozenset({"CLIP002"}), safety=Safety.UNSAFE))
    (finding,) = report.findings
    where = lsp.Range(lsp.Position(2, 20), lsp.Position(2, 20))
    params = lsp.CodeActionParams(lsp.TextDocumentIdentifier(at.uri), where, lsp.CodeActionContext([]))
    fix, _ = quick_fixes(at, report, params, versioned=False)
    assert fix.edit is not None and fix.edit.changes is not None
    edits = [(edit.range, edit.new_text) for edit in fix.edit.changes[at.uri]]
    assert edits == [(at.span(place), new) for place, new in changes_of(at, report, finding)]
