"""The keys of a settings file: what each one means, what it takes, and its default.

The reference pages and `clipcheck config KEY` print this table; `clipcheck.settings.keys` checks files against it.
"""

from __future__ import annotations

from typing import NamedTuple

from clipcheck.formats import FORMATS

# Folders that hold other people's code or build products; a user who names one of them gets it.
EXCLUDED = tuple(
    ".git .hg .svn .tox .nox .venv venv .eggs .mypy_cache .ruff_cache .pytest_cache .clipcheck_cache .ipynb_checkpoints "
    "__pycache__ __pypackages__ node_modules site-packages build dist".split()
)

RULES_LIST, PATTERNS, TABLE, FLAG, STRING, MODULE = (
    "a list of rules",
    "a list of patterns",
    "a table of patterns to lists of rules",
    "true or false",
    "a string",
    "clipcheck, torch or the dotted name of a module",
)


class Key(NamedTuple):
    """One key: `kind` is what it takes, or the values to choose from; `default` and `example` are TOML."""

    kind: str | tuple[str, ...]
    default: str
    about: str
    example: str

    @property
    def takes(self) -> str:
        return self.kind if isinstance(self.kind, str) else "one of " + ", ".join(f'"{value}"' for value in self.kind)


KEYS: dict[str, Key] = {
    "extend": Key(
        STRING,
        "none",
        "Another settings file to start from. Its keys hold unless this file sets them too. The path is relative to "
        "this file; `~` is your home folder.",
        'extend = "../clipcheck.toml"',
    ),
    "required-version": Key(
        STRING,
        "any version",
        "The versions of clipcheck that may run here, such as `>=0.1`. Another version stops with exit code 2.",
        'required-version = ">=0.1"',
    ),
    "select": Key(
        RULES_LIST,
        "every rule that is not opt-in",
        "The rules to run, instead of the default ones. A rule is given by its code, by its name or by a prefix of its "
        "code, in upper or lower case; `ALL` stands for every rule. The longest match wins, and `ignore` wins ties.",
        'select = ["CLIP1", "torch-six-inf"]',
    ),
    "ignore": Key(
        RULES_LIST,
        "[]",
        "Rules that do not run. `unused-suppression` turns off the report of unused suppression comments.",
        'ignore = ["CLIP501"]',
    ),
    "extend-select": Key(
        RULES_LIST,
        "[]",
        "Rules to run in addition to the selected or default ones, such as opt-in rules.",
        'extend-select = ["torch-clip-grad-norm"]',
    ),
    "per-file-ignores": Key(
        TABLE,
        "{}",
        "Rules that do not run in files that match a pattern. Patterns are those of `.gitignore`, relative to this "
        "file.",
        '[per-file-ignores]\n"tests/**" = ["CLIP001"]',
    ),
    "extend-per-file-ignores": Key(
        TABLE,
        "{}",
        "As `per-file-ignores`, in addition to what an extended file sets there.",
        '[extend-per-file-ignores]\n"notebooks/*.ipynb" = ["CLIP5"]',
    ),
    "exclude": Key(
        PATTERNS,
        "[" + ", ".join(f'"{name}"' for name in EXCLUDED) + "]",
        "Files and folders to skip while searching folders, instead of the default ones. Patterns are those of "
        "`.gitignore`. A file named on the command line is checked anyway, unless `force-exclude` is set.",
        'exclude = ["third_party"]',
    ),
    "extend-exclude": Key(
        PATTERNS,
        "[]",
        "Files and folders to skip in addition to `exclude`.",
        'extend-exclude = ["generated/*.py"]',
    ),
    "force-exclude": Key(
        FLAG,
        "false",
        "Skip excluded files even if they are named on the command line, as pre-commit does.",
        "force-exclude = true",
    ),
    "respect-gitignore": Key(
        FLAG,
        "true",
        "Skip files that git ignores.",
        "respect-gitignore = false",
    ),
    "target": Key(
        MODULE,
        '"clipcheck"',
        "Which functions fixes call: those of `clipcheck.runtime`, torch's own where clipcheck cannot be a dependency of "
        "the training code, or those of a package that `clipcheck vendor` wrote, by its dotted name.",
        'target = "torch"',
    ),
    "unsafe-fixes": Key(
        FLAG,
        "false",
        "Let `--fix` apply unsafe fixes too. They change training, because the training is what is wrong.",
        "unsafe-fixes = true",
    ),
    "fixable": Key(
        RULES_LIST,
        '["ALL"]',
        "The only rules that `--fix` may fix; the others are still reported.",
        'fixable = ["CLIP0"]',
    ),
    "unfixable": Key(
        RULES_LIST,
        "[]",
        "Rules that `--fix` never fixes; they are still reported.",
        'unfixable = ["CLIP001"]',
    ),
    "extend-safe-fixes": Key(
        RULES_LIST,
        "[]",
        "Rules whose unsafe fixes you consider safe.",
        'extend-safe-fixes = ["CLIP110"]',
    ),
    "extend-unsafe-fixes": Key(
        RULES_LIST,
        "[]",
        "Rules whose safe fixes you consider unsafe: they need `--unsafe-fixes`.",
        'extend-unsafe-fixes = ["CLIP001"]',
    ),
    "output-format": Key(
        FORMATS,
        '"full"',
        "How findings are printed.",
        'output-format = "concise"',
    ),
    "cache-dir": Key(
        STRING,
        '".clipcheck_cache"',
        "Where results are cached. A folder outside the project is used only if your own settings file or the command "
        "line names it.",
        'cache-dir = "build/clipcheck"',
    ),
}


def described(name: str) -> str:
    """What the reference says of a key, as text."""
    key = KEYS[name]
    example = "\n".join(f"    {line}" for line in in_pyproject(key).split("\n"))
    return f"{name}\n\n{key.about}\n\nType: {key.takes}\nDefault: {key.default}\nExample:\n\n{example}"


def in_pyproject(key: Key) -> str:
    """The example of a key as it stands in a pyproject.toml."""
    return key.example.replace("[", "[tool.clipcheck.", 1) if key.kind == TABLE else f"[tool.clipcheck]\n{key.example}"
