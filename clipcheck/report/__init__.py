"""The output formats, one module each: a function from an outcome and a view to text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipcheck.engine.batch import Outcome
    from clipcheck.report.view import View

# Where each format is made: module and function.
_MAKERS = {
    "full": ("text", "full"),
    "concise": ("text", "concise"),
    "grouped": ("text", "grouped"),
    "pylint": ("text", "pylint"),
    "json": ("json", "report"),
    "json-lines": ("json", "lines"),
    "github": ("commands", "github"),
    "azure": ("commands", "azure"),
    "gitlab": ("gitlab", "report"),
    "rdjson": ("rdjson", "report"),
    "junit": ("junit", "report"),
    "sarif": ("sarif", "report"),
}
FORMATS = tuple(_MAKERS)


def render(name: str, outcome: Outcome, view: View) -> str:
    """The outcome in the format `name`; formats for people end with a summary unless the view is quiet."""
    module, function = _MAKERS[name]
    text: str = getattr(import_module(f"{__name__}.{module}"), function)(outcome, view)
    return text
