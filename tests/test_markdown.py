"""Markdown and reStructuredText: each Python block is a separate program, and a fix keeps the text around it."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcheck.documents.read import read
from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Edit, Target
from clipcheck.settings.keys import Settings

OLD = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
NEW = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"


def run(text: str, path: str = "guide.md", fix: bool = False, target: Target = "torch") -> FileReport:
    report = check_file(path, text.encode(), Settings(frozenset({"CLIP002"}), target, fix))
    assert report.errors == ()
    return report


def lines(text: str, path: str = "guide.md") -> list[tuple[int, int]]:
    return [(finding.place.line, finding.place.column) for finding in run(text, path).findings]


def fixed(text: str, target: Target = "torch") -> str:
    after = run(text, fix=True, target=target).fixed_data
    assert after is not None
    return after.decode()


@pytest.mark.parametrize(
    "info",
    ["python", "py", "python3", "Python", 'python title="train.py"', "{python}", "{.python .input}", "{.python .input  n=3}",
     "{code-cell} ipython3", "python {linenos=table}", "pyi", "{code-cell}", "python3.11", "ipython", "ipython3",
     "{python, echo=FALSE}", "{python train, eval=FALSE}", ""],
)  # fmt: skip
def test_every_language_tag_for_python_is_recognized(info: str) -> None:
    assert lines(f"# Guide\n\n```{info}\nimport torch\n{OLD}\n```\n") == [(5, 1)]


@pytest.mark.parametrize(
    "info",
    ["bash", "text", "pytb", "pyrex", "{.bash}", "diff", "json", "console", "{r}", "{r, python=TRUE}", "pyconfig"],
)
def test_other_blocks_are_skipped(info: str) -> None:
    assert lines(f"```{info}\n{OLD}\n```\n") == []


@pytest.mark.parametrize("path", ["a.md", "a.markdown", "a.mdx", "a.qmd", "a.rmd", "a.Rmd", "docs/A.MDX"])
def test_every_kind_of_markdown_is_read_by_its_ending(path: str) -> None:
    assert lines(f"# Guide\n\n<Note>not Python</Note>\n\n```python\nimport torch\n{OLD}\n```\n", path) == [(7, 1)]


def test_a_fence_in_a_list_item() -> None:
    assert lines(f"1. First\n\n   - then\n\n     ```python\n     {OLD}\n     ```\n") == [(6, 6)]


@pytest.mark.parametrize(
    "content",
    [
        f"$ grep clip_grad_norm\ntrain.py: {OLD}",
        f"Call {OLD} first",
        f"- {OLD}\n+ x y",
        'Traceback (most recent call last):\n  File "a.py", line 1, in clip_grad_norm',
        "torch.nn.utils.rnn.pad_sequence(xs)",
        "function(x) { clip_grad_norm(x) }",
    ],
)
def test_a_fence_without_a_language_that_is_not_python_is_skipped(content: str) -> None:
    assert read("a.md", f"```\n{content}\n```\n".encode()).programs == ()


@pytest.mark.parametrize("info", ["pycon", "pycon3", "python-repl", "python", "ipython", ""])
def test_an_interactive_session_is_checked_and_left_unchanged(info: str) -> None:
    text = (
        f"```{info}\n>>> import torch\n>>> for x in xs:\n...     {OLD}\n...\n{OLD}\ntensor(1.)\n"
        f">>> print(x)\n>>> {OLD}\n```\n"
    )
    assert lines(text) == [(4, 9), (9, 5)]
    report = run(text, fix=True)
    assert report.fixed_data is None and [finding.fix for finding in report.findings] == [None, None]


def test_a_session_of_ipython() -> None:
    text = f"```ipython\nIn [1]: import torch\n\nIn [2]: for x in xs:\n   ...:     {OLD}\nOut[2]: {OLD}\n\nIn [13]: {OLD}\n```\n"
    assert lines(text) == [(5, 13), (8, 10)]


def test_sessions_of_documents_in_rst() -> None:
    text = f".. code-block:: pycon\n\n   >>> import torch\n   >>> {OLD}\n   tensor(1.)\n\n.. code-block:: python\n\n   >>> {OLD}\n\n.. doctest::\n\n   >>> {OLD}\n"
    assert lines(text, "guide.rst") == [(4, 8), (9, 8), (13, 8)]


def test_prose_and_code_spans_are_skipped() -> None:
    assert lines(f"Call `{OLD}` or\n\n    {OLD}\n") == []


def test_a_fix_changes_the_call_and_not_one_byte_more() -> None:
    text = f"---\ntitle: Größe 😀\n---\n\n~~~~py\nimport torch\n{OLD}\n~~~~\n\ntrailing  \n\n```python\n{OLD}"
    assert fixed(text) == text.replace(OLD, NEW)
    assert fixed(text.replace("\n", "\r\n")) == text.replace(OLD, NEW).replace("\n", "\r\n")


def test_a_new_line_gets_the_margin_of_its_block() -> None:
    text = f"> quoted\n>\n> ```python\n> import torch\n> for b in data:\n>     {OLD}\n> ```\n\n1. step\n\n   ```py\n   import torch\n\n   {OLD}\n   ```\n"
    assert lines(text) == [(6, 7), (14, 4)]
    assert fixed(text, "clipcheck") == (
        "> quoted\n>\n> ```python\n> import torch\n> from clipcheck.runtime import clip_grad_norm_\n> for b in data:\n"
        ">     clip_grad_norm_(model.parameters(), 1.0)\n> ```\n\n1. step\n\n   ```py\n   import torch\n"
        "   from clipcheck.runtime import clip_grad_norm_\n\n   clip_grad_norm_(model.parameters(), 1.0)\n   ```\n"
    )


def test_an_excerpt_from_a_functions_body_is_read_and_keeps_its_indentation() -> None:
    text = f"```python\n    import torch\n    loss.backward()\n    {OLD}\n```\n"
    assert lines(text) == [(4, 5)]
    assert fixed(text, "clipcheck") == (
        "```python\n    import torch\n    from clipcheck.runtime import clip_grad_norm_\n    loss.backward()\n"
        "    clip_grad_norm_(model.parameters(), 1.0)\n```\n"
    )


def test_tabs_of_other_frameworks_are_skipped() -> None:
    text = "".join(
        f"```{{.python .input}}\n%%tab {tab}\n{OLD}\n```\n\n" for tab in ("mxnet", "pytorch", "tensorflow", "all")
    )
    assert [line for line, _ in lines(text)] == [8, 18]


def test_a_name_bound_in_one_block_is_unknown_in_another() -> None:
    text = f"```python\nimport mine as torch\n```\n\n```python\n{OLD}\n```\n"
    assert lines(text) == [(6, 1)]


def test_an_abridged_block_is_not_an_error_and_hides_nothing() -> None:
    text = f"```python\nfor x, y in …:\n    {OLD}\n```\n"
    report = run(text, fix=True)
    assert [(f.code, f.place.line) for f in report.findings] == [("CLIP002", 3)]
    assert report.fixed_data is None


def test_without_the_parser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    report = check_file("guide.md", f"```python\n{OLD}\n```\n".encode(), Settings(frozenset({"CLIP002"})))
    assert report.findings == () and "clipcheck[markdown]" in report.errors[0]


def test_rst_blocks_are_reported_and_left_alone() -> None:
    text = (
        "Guide\n=====\n\n.. code-block:: python\n   :linenos:\n\n   import torch\n\n"
        f"   {OLD}\n\nText.\n\n* item\n\n  .. code:: py\n\n      {OLD}\n\n.. code-block:: bash\n\n   {OLD}\n\n.. testcode::\n\n   {OLD}\n"
    )
    assert lines(text, "guide.rst") == [(9, 4), (17, 7), (25, 4)]
    report = run(text, "guide.rst", fix=True)
    assert report.fixed_data is None and all(finding.fix is None for finding in report.findings)


MARGIN = st.sampled_from(["", "> ", "  ", "> > ", "   "])
BODY = st.lists(st.sampled_from(["x = 1", "", "    y", "é😀", "# c", "\tz"]), min_size=1, max_size=5)


@given(MARGIN, BODY, st.sampled_from(["\n", "\r\n"]), st.data())
def test_any_edit_of_a_block_changes_nothing_else(
    margin: str, body: list[str], newline: str, data: st.DataObject
) -> None:
    head, tail = f"pröse{newline}{newline}", f"{margin}```{newline}after"
    fence = margin + "```python" + newline
    text = head + fence + "".join(f"{margin}{line}{newline}" for line in body) + tail
    raw = text.encode()
    doc = read("x.md", raw)
    assert doc.splice([[] for _ in doc.programs]) == raw
    if not doc.programs:
        return
    (program,) = doc.programs
    rows = program.text.split(newline)
    row = data.draw(st.integers(0, len(rows) - 2))
    start = len(newline.join(rows[:row])) + (len(newline) if row else 0)
    after = doc.splice([[Edit(start, start, f"new{newline}")]]).decode()
    before = text.split(newline)
    at = text.count(newline, 0, len(head) + len(fence)) + row
    got = after.split(newline)
    assert got[:at] == before[:at] and got[at + 1 :] == before[at:]
    assert got[at].strip("> \t") == "new"
