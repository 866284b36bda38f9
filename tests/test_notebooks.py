"""Notebooks: cells are one program, findings name cell and line, and a fix changes only the source strings it must."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcheck.documents.magics import masked
from clipcheck.documents.read import read
from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Edit, Finding, Place, Target
from clipcheck.settings.keys import Settings

OLD = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
NEW = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
PYTHON = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def code(source: str | list[str], **more: Any) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source, **more}


def prose(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": [source]}


def notebook(*cells: dict[str, Any], metadata: dict[str, Any] = PYTHON, **layout: Any) -> bytes:
    content = {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return (json.dumps(content, **{"indent": 1, "ensure_ascii": False, **layout}) + "\n").encode()


def run(data: bytes, fix: bool = False, target: Target = "torch") -> FileReport:
    report = check_file("n.ipynb", data, Settings(frozenset({"CLIP002"}), target, fix))
    assert report.errors == ()
    return report


def fixed(data: bytes, target: Target = "torch") -> bytes:
    after = run(data, fix=True, target=target).fixed_data
    assert after is not None
    return after


def where(findings: tuple[Finding, ...]) -> list[tuple[int | None, int, int]]:
    return [(finding.place.cell, finding.place.line, finding.place.column) for finding in findings]


def sources(data: bytes) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(data)["cells"]]


def test_a_finding_names_the_cell_counting_prose_and_the_line_in_it() -> None:
    data = notebook(prose("# Train"), code(["import torch\n"]), code(["for batch in data:\n", f"    {OLD}\n"]))
    assert where(run(data).findings) == [(3, 2, 5)]


def test_an_alias_imported_in_one_cell_is_known_in_the_next() -> None:
    data = notebook(code("from torch.nn.utils import clip_grad_norm as clip"), code("clip(model.parameters(), 1.0)"))
    findings = run(data).findings
    assert {finding.code for finding in findings} == {"CLIP002"}
    assert findings[0].place.cell == 1


@pytest.mark.parametrize(
    "layout",
    [{"indent": 1}, {"indent": 2}, {"indent": None}, {"indent": "\t"}, {"indent": 1, "ensure_ascii": True}],
    ids=["Jupyter", "Colab", "one line", "tabs", "escaped"],
)
@pytest.mark.parametrize("as_list", [True, False], ids=["list", "string"])
def test_a_fix_changes_the_call_and_not_one_byte_more(layout: dict[str, Any], as_list: bool) -> None:
    text = f"# Schrittweite 😀\n{OLD}  # é\nprint('\\u00e9')"
    source = text.splitlines(keepends=True) if as_list else text
    data = notebook(prose("Größe"), code("import torch"), code(source), **layout)
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


def test_line_ends_byte_order_mark_and_the_missing_last_line_end_stay() -> None:
    data = b"\xef\xbb\xbf" + notebook(code("import torch"), code([OLD])).rstrip().replace(b"\n", b"\r\n")
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


def test_unusual_key_order_and_spacing_stay() -> None:
    data = (
        '{"nbformat":4 ,"metadata" : {"colab":{"name":"x"}, "kernelspec":{"name":"python3"}},\n'
        '\t"cells":[ {"source" :[ "import torch\\n" ,"' + OLD + '" ],"cell_type":"code","outputs":[],"metadata":{}} ] }'
    ).encode()
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


def test_the_import_goes_to_the_cell_that_imports_torch() -> None:
    data = notebook(prose("x"), code(["import os\n", "import torch"]), code(["x = 1\n"]), code([OLD]))
    assert sources(fixed(data, "clipcheck")) == [
        "x",
        "import os\nimport torch\nfrom clipcheck.runtime import clip_grad_norm_",
        "x = 1\n",
        "clip_grad_norm_(model.parameters(), 1.0)",
    ]


def test_an_added_line_is_a_separate_element() -> None:
    data = notebook(code(["import torch"]), code([OLD]))
    cells = json.loads(fixed(data, "clipcheck"))["cells"]
    assert cells[0]["source"] == ["import torch\n", "from clipcheck.runtime import clip_grad_norm_"]


def test_git_shows_only_the_changed_lines(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    path.write_bytes(data := notebook(code(["import torch\n", "x = 1"]), code([f"{OLD}\n", "y = 2"])))
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    path.write_bytes(fixed(data))
    diff = subprocess.run(["git", "diff", "-U0"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        f'-    "{OLD}\\n",',
        f'+    "{NEW}\\n",',
    ]


def test_magics_and_shell_lines_hide_nothing() -> None:
    cell = (
        "%matplotlib inline\n!pip install torch \\\n    numpy\nfiles = !ls\nmodel?\n?model\n%time x = 3\n"
        f"if True:\n    !nvidia-smi\n    {OLD}"
    )
    data = notebook(code("import torch"), code(cell))
    assert where(run(data).findings) == [(2, 10, 5)]
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


def test_a_percent_sign_inside_brackets_or_a_string_is_not_a_magic() -> None:
    cell = 'x = (a\n%b)\ntext = """\n!not a command\n%s\n""" % x\n' + OLD
    data = notebook(code("import torch"), code(cell))
    assert where(run(data).findings) == [(2, 7, 1)]


@pytest.mark.parametrize("magic", ["%%time", "%%capture out", "%%timeit -n 10", "\n%%time"])
def test_the_body_of_a_transparent_cell_magic_is_python(magic: str) -> None:
    data = notebook(code("import torch"), code(f"{magic}\n{OLD}"))
    assert [cell for cell, _, _ in where(run(data).findings)] == [2]


@pytest.mark.parametrize("magic", ["%%bash", "%%html", "%%writefile notes.txt", "%%javascript", "%%tab mxnet"])
def test_cells_of_another_language_are_skipped(magic: str) -> None:
    data = notebook(code("import torch"), code(f"{magic}\n{OLD}"))
    assert run(data).findings == ()


def test_a_script_written_by_a_cell_is_a_separate_program() -> None:
    data = notebook(code("clip_grad_norm = print"), code(f"%%writefile train.py\nimport torch\n{OLD}"))
    assert where(run(data).findings) == [(2, 3, 1)]
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": {"language": "julia", "name": "julia-1.10"}},
        {"kernelspec": {"name": "ir"}},
        {"language_info": {"name": "scala"}},
    ],
)
def test_notebooks_of_other_languages_are_skipped(metadata: dict[str, Any]) -> None:
    assert run(notebook(code(f"import torch\n{OLD}"), metadata=metadata)).findings == ()


@pytest.mark.parametrize(
    "metadata", [{}, {"kernelspec": {"name": "my-env"}}, {"language_info": {"name": "python"}}, {"colab": {}}]
)
def test_python_in_every_notebook_format_is_read(metadata: dict[str, Any]) -> None:
    assert len(run(notebook(code(f"import torch\n{OLD}"), metadata=metadata)).findings) == 1


def test_a_cell_of_another_language_in_vs_code_is_skipped() -> None:
    data = notebook(code("import torch"), code(OLD, metadata={"vscode": {"languageId": "shellscript"}}))
    assert run(data).findings == ()


def test_the_old_format_with_worksheets_is_read() -> None:
    cell = {"cell_type": "code", "input": ["import torch\n", OLD], "language": "python", "outputs": []}
    data = json.dumps({"metadata": {}, "nbformat": 3, "worksheets": [{"cells": [cell]}]}, indent=1).encode()
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


def test_a_cell_that_is_not_python_is_reported_and_hides_no_other() -> None:
    data = notebook(code("import torch"), code("for x i (p.grad):\n    pass"), code(OLD))
    assert [(f.code, f.place.cell, f.place.line) for f in run(data).findings] == [
        ("invalid-syntax", 2, 1),
        ("CLIP002", 3, 1),
    ]
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


@pytest.mark.parametrize(
    "broken",
    [
        "for x i y:\n    pass",
        "loss = ",
        "Explain why the gradient of the loss vanishes, and how to clip the gradients.",
        "net = Net(  # clip_grad_norm_ comes later",
        'print "the grad norm is", x',
        "x = torch.flip(",
        "with tf.GradientTape() as tape:\n    <YOUR CODE>",
        "der_by_x = <YOUR CODE: student.compute_grad_over_x()>",
        "def get_action(self, noise=0.2, clip_eta=0.5):\n    <YOUR CODE>",
        "grads = torch.autograd.grad (outputs, inputs)\nx = = 1",
        "assert qvalues.requires_grad\n<YOUR CODE>",
    ],
)
def test_a_blank_to_fill_in_or_prose_is_not_an_error(broken: str) -> None:
    data = notebook(code("import torch"), code(broken), code(OLD))
    assert where(run(data).findings) == [(3, 1, 1)]
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


@pytest.mark.parametrize(
    "broken",
    [
        "torch.nn.utils.clip_grad_norm_(net.parameters(), )(",
        "for p i net.parameters():\n    p.grad.zero_()",
        "clip_norm = ",
        "(ps[0].grad, ",
        "max_grad_norm = 10\nevery = <>",
        "scaler = GradScaler(",
        "def clip_gradients(net, theta)\n    pass",
    ],
)
def test_a_broken_cell_about_clipping_is_reported(broken: str) -> None:
    data = notebook(code("import torch"), code(broken), code(OLD))
    assert ("invalid-syntax", 2) in [(f.code, f.place.cell) for f in run(data).findings]


def test_inside_a_broken_cell_findings_are_shown_and_nothing_is_edited() -> None:
    data = notebook(code("import torch"), code(f"for x, y i data:\n    {OLD}\n"))
    report = run(data, fix=True)
    assert [(f.code, f.place.line, f.fix) for f in report.findings] == [
        ("invalid-syntax", 1, None),
        ("CLIP002", 2, None),
    ]
    assert report.fixed_data is None


@pytest.mark.parametrize(
    "data",
    [
        b"torch.nn.utils.clip_grad_norm(",
        b'{"a": "torch.nn.utils.clip_grad_norm("}',
        b'["torch.nn.utils.clip_grad_norm("]',
        b"\xfftorch.nn.utils.clip_grad_norm(",
    ],
)
def test_what_is_not_a_notebook_is_one_clear_finding(data: bytes) -> None:
    (finding,) = run(data).findings
    assert finding.code == "invalid-syntax" and finding.place == Place(1, 1, 1, 1)


@pytest.mark.parametrize(
    "source",
    ['"import torch\\nclip_grad_norm = torch.nn.utils.clip_grad_norm"', '"torch.nn.utils.\\u0063lip_grad_norm(p, 1)"'],
)
def test_escapes_hide_no_keyword(source: str) -> None:
    data = b'{"cells": [{"cell_type": "code", "source": %s}]}' % source.encode()
    assert {finding.code for finding in run(data).findings} == {"CLIP002"}


def test_places_in_the_file_are_those_of_the_json() -> None:
    data = notebook(code(["import torch\n", '"\\t" and ' + OLD]))
    doc = read("n.ipynb", data)
    (finding,) = run(data).findings
    assert finding.place == Place(2, 10, 2, 10 + len("torch.nn.utils.clip_grad_norm"), 1)
    place = doc.in_file(finding.place)
    line = data.decode().splitlines()[place.line - 1]
    assert line[place.column - 1 : place.end_column - 1] == "torch.nn.utils.clip_grad_norm"


def test_lone_surrogates_survive() -> None:
    data = (
        b'{"cells": [{"cell_type": "code", "source": ["import torch\\n", "x = \'\\ud83d\'\\n", "%s"]}]}' % OLD.encode()
    )
    assert fixed(data) == data.replace(OLD.encode(), NEW.encode())


# --- hostile round trips --------------------------------------------------------------------------------------------

LINES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
    | st.sampled_from(["%x", "!ls \\", "f?", '"""', "(", "\\"]),
    max_size=6,
)


@given(LINES)
def test_masking_keeps_length_and_line_ends(lines: list[str]) -> None:
    text = "\n".join(lines)
    python = masked(text)
    if python is not None:
        assert len(python[0]) == len(text)
        assert [i for i, c in enumerate(python[0]) if c == "\n"] == [i for i, c in enumerate(text) if c == "\n"]


@settings(max_examples=150)
@given(
    st.lists(LINES, min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, 2, "\t"]),
    st.data(),
)
def test_any_edit_of_any_cell_changes_nothing_else(
    cells: list[list[str]], as_list: bool, ascii_only: bool, indent: int | str | None, data: st.DataObject
) -> None:
    """Whatever a cell contains, an edit of a span changes that span of the text and nothing else."""
    texts = ["\n".join(lines) for lines in cells]
    written = [
        [line + "\n" for line in text.split("\n")[:-1]] + [text.split("\n")[-1]] if as_list else text for text in texts
    ]
    raw = notebook(*map(code, written), indent=indent, ensure_ascii=ascii_only)
    doc = read("n.ipynb", raw)
    assert doc.splice([[] for _ in doc.programs]) == raw
    if not doc.programs:
        return
    which = data.draw(st.integers(0, len(doc.programs) - 1))
    program = doc.programs[which]
    segment = data.draw(st.sampled_from(program.segments))
    assert segment.cell is not None
    text = texts[segment.cell - 1]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    insert = data.draw(st.sampled_from(["", "x", "a\nb", "é\n", '"\\']))
    edits: list[list[Edit]] = [[] for _ in doc.programs]
    edits[which] = [Edit(segment.start + start, segment.start + end, insert)]
    after = doc.splice(edits)
    expected = list(texts)
    expected[segment.cell - 1] = text[:start] + insert + text[end:]
    lent = not text.endswith("\n") and expected[segment.cell - 1].endswith(
        "\n"
    )  # a line end at the very end is not part of the cell
    got = sources(after)
    assert got[: segment.cell - 1] + got[segment.cell :] == texts[: segment.cell - 1] + texts[segment.cell :]
    assert got[segment.cell - 1] in (expected[segment.cell - 1], expected[segment.cell - 1][:-1] if lent else None)
    if as_list:
        changed = json.loads(after)["cells"][segment.cell - 1]["source"]
        assert all(line.endswith("\n") and line.count("\n") == 1 for line in changed[:-1])


def test_removing_the_last_line_of_a_cell_leaves_no_empty_line() -> None:
    raw = notebook(code(["a = 1\n", "b = 2"]), code(["c = 3"]))
    doc = read("n.ipynb", raw)
    last = doc.programs[0].text.index("b = 2")
    assert sources(doc.splice([[Edit(last, last + len("b = 2\n"), "")]])) == ["a = 1", "c = 3"]


def test_a_line_added_at_the_end_of_a_cell_stays_out_of_the_next() -> None:
    raw = notebook(code(["a = 1"]), code(["c = 3"]))
    doc = read("n.ipynb", raw)
    end = doc.programs[0].text.index("a = 1") + len("a = 1\n")
    assert sources(doc.splice([[Edit(end, end, "b = 2\n")]])) == ["a = 1\nb = 2", "c = 3"]
