"""The output formats, one module each: a function from an outcome and a view to text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from clipcheck.formats import MAKERS

if TYPE_CHECKING:
    from clipcheck.engine.results import Outcome
    from clipcheck.report.view import View


def render(name: str, outcome: Outcome, view: View) -> str:
    """The outcome in the format `name`; formats for people end with a summary unless the view is quiet."""
    module, function = MAKERS[name]
    text: str = getattr(import_module(f"{__name__}.{module}"), function)(outcome, view)
    return text
