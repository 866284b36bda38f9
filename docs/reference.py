"""The reference pages of the site, made from the code that they describe."""

from __future__ import annotations

import html
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import click

from clipcheck import report
from clipcheck.cli.main import main
from clipcheck.cli.options import GROUPS
from clipcheck.engine.file import check_file
from clipcheck.engine.results import Outcome
from clipcheck.formats import FORMATS
from clipcheck.report.view import Looked, View
from clipcheck.settings.files import FILES
from clipcheck.settings.keys import Settings
from clipcheck.settings.table import KEYS, in_pyproject


def settings() -> str:
    parts = [
        "# Settings\n\nSettings are read from the first of "
        + ", ".join(f"`{name}`" for name in FILES)
        + " that is found in the folder of a file or above it; a `pyproject.toml` counts if it has a table "
        "`[tool.clipcheck]`. The nearest file wins as a whole: files are not merged, but one may "
        "[`extend`](#extend) another. Without any, `clipcheck/clipcheck.toml` in your own configuration folder "
        "(`~/.config`, or `%APPDATA%` on Windows) is read. Options of the command line win over files, and an unknown "
        "key is an error.\n\n`clipcheck config KEY` prints what this page says of a key; `clipcheck --show-settings "
        "FILE` prints the settings in force, and `-v` says where each comes from."
    ]
    for name, key in KEYS.items():
        default = (
            key.default if key.default in ("none", "any version") or " " in key.default[:6] else f"`{key.default}`"
        )
        parts.append(
            f"## `{name}`\n\n{key.about}\n\n- **Type:** {_code_quoted(key.takes)}\n- **Default:** {default}\n\n"
            f"```toml\n{in_pyproject(key)}\n```"
        )
    return "\n\n".join(parts)


def _code_quoted(text: str) -> str:
    return re.sub(r'"[^"]*"', lambda found: f"`{found[0]}`", text)


# --- command line -------------------------------------------------------------------------------------------------------


def command_line() -> str:
    parts = [
        "# Command line\n\n`clipcheck PATHS` is short for `clipcheck check PATHS`. `clipcheck help COMMAND` prints what "
        "this page says about a command. Of an option and its negation (`--fix --no-fix`) the last one wins. Options "
        "for rules take codes, prefixes of codes or names, separated by commas."
    ]
    for name in ("check", *sorted(set(main.commands) - {"check", "bench"})):
        parts.append(_command(name, main.commands[name]))
    parts.append(_command("bench", main.commands["bench"]))
    parts.append(
        "```console\n$ clipcheck bench clip --device cpu\n$ clipcheck bench norm\n$ clipcheck bench step\n"
        "$ clipcheck bench beliefs\n```\n\n`clipcheck bench clip --help` lists the options; it needs torch."
    )
    return "\n\n".join(parts)


def _command(name: str, command: click.Command) -> str:
    pieces = command.collect_usage_pieces(click.Context(command))  # which click 8.1 and later have alike
    own = {"audit": ["(FILE | -m MODULE)", "[ARGUMENTS]"], "bench": list[str]()}
    words = own.get(name, [word for word in pieces if word != command.options_metavar])
    shown = " ".join(["clipcheck", name, *([] if name == "bench" else ["[OPTIONS]"]), *words])
    about = textwrap.dedent(inspect.cleandoc(command.help or ""))
    parts = [f"## `{name}`\n\n```text\n{shown}\n```\n\n{about}"]
    if name == "check":
        parts += [f"### {title}\n\n{_table(options)}" for title, options in GROUPS.items()]
    elif table := _table(parameter for parameter in command.params if isinstance(parameter, click.Option)):
        parts.append(table)
    return "\n\n".join(parts)


def _table(options: Iterable[click.Option]) -> str:
    rows = []
    for option in options:
        names, about = option.get_help_record(click.Context(main)) or ("", "")
        rows.append(f"| {' / '.join(map(_option, names.split(' / ')))} | {about} |")
    table = "\n".join(["| option | |", "| --- | --- |", *rows])
    return f'<div class="options" markdown>\n\n{table}\n\n</div>' if rows else ""


def _option(text: str) -> str:
    """`-o, --option VALUE` as names, which are never broken into lines, and a value, which may be after each `|`."""
    names, value = re.fullmatch(r"((?:-[\w-]+(?:, )?)+)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    value = html.escape(value.strip()).replace("|", "&#124;<wbr>")
    shown = ", ".join(f"`{name}`" for name in names.split(", "))
    return f'{shown} <code class="value">{value}</code>' if value else shown


# --- environment, comments, exit codes ----------------------------------------------------------------------------------

VARIABLES = {
    "CLIPCHECK_OUTPUT_FORMAT": "The output format, as `--output-format`.",
    "CLIPCHECK_NO_CACHE": "If set to a true value, the cache is neither read nor written, as with `--no-cache`.",
    "CLIPCHECK_CACHE_DIR": "Where to keep the cache, as `--cache-dir`.",
    "CLIPCHECK_DOCS_URL": "The address of your own copy of this site: links to rule pages in reports and editors lead there.",
    "CLIPCHECK_RUNTIME": "Set by `python -m clipcheck.run` for the processes that it starts; not meant to be set by hand.",
    "NO_COLOR": "If set, output has no color.",
    "FORCE_COLOR": "If set and not `0`, output has color although it is not a terminal; `NO_COLOR` wins.",
    "CLICOLOR_FORCE": "As `FORCE_COLOR`.",
    "TERM": "`dumb` turns color off.",
    "XDG_CONFIG_HOME": "On Linux and macOS, the folder of your own `clipcheck/clipcheck.toml`; `~/.config` by default.",
    "APPDATA": "On Windows, the folder of your own `clipcheck/clipcheck.toml`.",
    "PYTHONPATH": "`python -m clipcheck.run` adds a folder for the processes that it starts.",
}


def environment() -> str:
    rows = [f"| `{name}` | {about} |" for name, about in VARIABLES.items()]
    table = "\n".join(["| variable | meaning |", "| --- | --- |", *rows])
    return (
        "# Environment variables\n\nA command-line option takes precedence over a variable.\n\n"
        f'<div class="options" markdown>\n\n{table}\n\n</div>'
    )


CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
# Each form of a suppression comment: a title, what it does, and a program in which it suppresses CLIP002.
SUPPRESSIONS = (
    (
        "One line",
        "At the end of a line, for the findings on it; if a statement has several lines, any of them will do.",
        f"import torch\n\n{CALL}  # clipcheck: ignore[CLIP002]\n",
    ),
    (
        "The next line",
        "On a separate line, for the next line of code.",
        f"import torch\n\n# clipcheck: ignore[CLIP002] the old name is kept for torch 0.3\n{CALL}\n",
    ),
    (
        "A block",
        "From `disable` to `enable`, or to the end of the file.",
        f"import torch\n\n# clipcheck: disable[CLIP002]\n{CALL}\n# clipcheck: enable[CLIP002]\n",
    ),
    ("A file", "Anywhere in the file.", f"# clipcheck: file-ignore[CLIP002]\nimport torch\n\n{CALL}\n"),
    (
        "As flake8 and ruff write it",
        "`# noqa` alone suppresses every rule on its line; with codes, only these. Codes of other tools may be on the same line.",
        f"import torch\n\n{CALL}  # noqa: CLIP002\n",
    ),
    (
        "A file, as flake8 and ruff write it",
        "`# clipcheck: noqa` suppresses every rule in the file; with codes, only these.",
        f"# clipcheck: noqa: CLIP002\nimport torch\n\n{CALL}\n",
    ),
)


def suppression() -> str:
    parts = [
        "# Suppression comments\n\nRules are named by code or by name, several separated by commas; without brackets a "
        "comment suppresses every rule. Text after the bracket is a reason, and is ignored. A comment that suppresses "
        "nothing is reported as `unused-suppression`, with a fix that removes it; a malformed one is a warning, and the "
        "finding stays."
    ]
    parts += [f"## {title}\n\n{about}\n\n```python\n{code}```" for title, about, code in SUPPRESSIONS]
    parts.append(
        "## For many findings\n\n`clipcheck --add-ignore .` writes such a comment on every line with findings, "
        '`--add-ignore="a reason"` with a reason, `--add-noqa` as `# noqa`. `--ignore-noqa` ignores all comments for one '
        "run. To leave rules out of whole folders, see [`per-file-ignores`](settings.md#per-file-ignores).\n\n"
        "ruff may remove `# noqa: CLIP002` unless [its settings](../guides/ci.md#with-ruff) know clipcheck's codes."
    )
    return "\n\n".join(parts)


EXIT_CODES = {
    0: "Nothing was found, or everything found was fixed; with `--exit-zero`, `--fix-only` or `--show-files` always, unless something went wrong.",
    1: "There are findings. With `--diff`, there is something to fix; with `--exit-non-zero-on-fix`, something was fixed. "
    "`clipcheck verify` without paths: the claim of an example does not hold. `clipcheck vendor --check`: the copy is not current.",
    2: "Something went wrong: a wrong option or setting, a path that does not exist, a file that cannot be read or written, "
    "a rule that failed. The other files were still checked. `clipcheck verify PATH`: a fix was refuted.",
}


def exit_codes() -> str:
    rows = [f"| `{code}` | {about} |" for code, about in EXIT_CODES.items()]
    return "# Exit codes\n\nIf several apply, the highest is used.\n\n" + "\n".join(
        ["| code | meaning |", "| --- | --- |", *rows]
    )


# --- output formats -----------------------------------------------------------------------------------------------------

SAMPLE = """\
import torch


def train(model, loss, opt):
    loss.backward()
    torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
    opt.step()
"""
ABOUT = {
    "full": (
        "text",
        "The default: the code around each finding, and its fix as a diff; what is in copies of a function is shown once.",
    ),
    "concise": ("text", "One line per finding."),
    "grouped": ("text", "Findings under the file that they are in."),
    "pylint": ("text", "For tools that read pylint's output."),
    "json": (
        "json",
        "An array in the shape of ruff's. Rows and columns count from 1, columns in code points, and ends are exclusive.",
    ),
    "json-lines": ("json", "The same objects, one per line: files of several runs can be joined with `cat`."),
    "github": ("text", "Commands from which GitHub Actions makes annotations."),
    "azure": ("text", "Commands from which Azure Pipelines makes annotations."),
    "gitlab": ("json", "GitLab's code quality report."),
    "rdjson": ("json", "For reviewdog, with fixes as suggestions."),
    "junit": ("xml", "For tools that read JUnit's XML."),
    "sarif": ("json", "SARIF 2.1.0, for code scanning on GitHub and other viewers."),
}


def output_formats() -> str:
    parts = [
        "# Output formats\n\nChosen by `--output-format`, by `CLIPCHECK_OUTPUT_FORMAT` or by the key "
        "[`output-format`](settings.md#output-format). All samples are of this `train.py` in the folder `/project`:\n\n"
        f"```python\n{SAMPLE}```"
    ]
    for name in FORMATS:
        language, about = ABOUT[name]
        parts.append(f"## `{name}`\n\n{about}\n\n```{language}\n{sample(name).rstrip()}\n```")
    return "\n\n".join(parts)


def sample(name: str) -> str:
    """What a format makes of SAMPLE."""
    one = check_file("train.py", SAMPLE.encode(), Settings(codes=frozenset({"CLIP002"}), target="torch"))
    outcome = Outcome((one,), 1, (), 1)
    with mock.patch.object(os, "getcwd", return_value="/project"), mock.patch("os.path.realpath", os.path.abspath):
        text = report.render(name, outcome, View(exit_code=1, looked=Looked(("train.py",), 0.0)))
    return _shortened(text) if name == "sarif" else text


def _shortened(sarif: str) -> str:
    """The report without the rule's long explanation."""
    log = json.loads(sarif)
    for rule in log["runs"][0]["tool"]["driver"]["rules"]:
        rule["help"] = {kind: text[:40] + " …" for kind, text in rule["help"].items()}
    return json.dumps(log, indent=2, ensure_ascii=False)


# --- Python -------------------------------------------------------------------------------------------------------------


def python_api() -> str:
    return (
        "# Python API\n\n[From Python](../guides/python.md) has examples. Importing `clipcheck.api` loads neither torch nor "
        "LibCST.\n\n::: clipcheck.api\n    options:\n      members: [check, fix, verify, FixResult, ClipcheckWarning, "
        "MissingPath, ConfigError, Finding, Place, Fix, Edit, Safety, Severity]\n"
    )


def runtime_api() -> str:
    from clipcheck import runtime

    # functions before the classes that they return; `install` is a module's name, too, and needs its own line
    functions = [name for name in runtime.__all__ if name[0].islower() and name != "install"]
    return (
        "# Runtime API\n\nWhat it does, how accurate and how fast it is: [the runtime](../runtime.md).\n\n"
        f"::: clipcheck.runtime\n    options:\n      members: [{', '.join(functions)}, Clipped]\n\n"
        "::: clipcheck.runtime.install.install\n    options:\n      show_root_heading: true\n"
        "      show_root_full_path: false\n      show_root_toc_entry: true\n\n"
        "## Integrations\n\n::: clipcheck.integrations.accelerate\n\n::: clipcheck.integrations.lightning\n"
    )


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "command-line": command_line,
    "environment": environment,
    "suppression": suppression,
    "output-formats": output_formats,
    "exit-codes": exit_codes,
    "python": python_api,
    "runtime": runtime_api,
}


def pages() -> Iterator[tuple[str, str]]:
    """The path of each page in the site, and its Markdown."""
    for name, made in PAGES.items():
        yield f"reference/{name}.md", made()


if __name__ == "__main__":
    for path, text in pages():
        print(Path(path).name, len(text))
