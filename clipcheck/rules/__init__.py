"""The checks, one module a rule, named as the rule is: a generator `check(source)` under a docstring that is its page."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from clipcheck.rule import Hit, Rule

if TYPE_CHECKING:
    from clipcheck.python.source import Source

Check: TypeAlias = "Callable[[Source], Iterator[Hit]]"


def check_of(rule: Rule) -> Check:
    check: Check = _module(rule).check
    return check


def page_of(rule: Rule) -> str:
    """The rule's page: what it does, why that is bad, how safe its fix is, and its sources."""
    return inspect.cleandoc(_module(rule).__doc__ or "")


def _module(rule: Rule) -> ModuleType:
    return importlib.import_module(f"{__name__}.{rule.module}")
