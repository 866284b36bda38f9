"""Runs at the start of every Python process below `python -m clipcheck.run`, and waits there for torch.

Once torch is imported, and not earlier, the runtime is put in the places of its functions: a program may set variables
that torch reads when it is loaded, and one that never imports torch pays nothing. Python imports the first
`sitecustomize` on its path and no other, so the one that this file hides is run from here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _WaitsForTorch:
    """Lets the other finders find torch, and installs the runtime when it has been run."""

    def __init__(self, results: str) -> None:
        self.results = results

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.install()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def install(self) -> None:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        try:
            from clipcheck.runtime import install

            if importlib.util.find_spec("torch_xla"):  # it would refuse to replace a function that is not torch's
                raise ImportError("torch_xla has its own clip")
        except ImportError as error:
            print(f"clipcheck.run: torch keeps its own functions in {sys.executable}: {error}", file=sys.stderr)
        else:
            install(results=self.results)  # type: ignore[arg-type]


def _run_the_hidden_one(here: str) -> None:
    """Runs the `sitecustomize` that Python would have found without this folder on its path."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None and spec.origin != os.path.join(here, "sitecustomize.py"):
        module = sys.modules["sitecustomize"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _here]
if _results := os.environ.get("CLIPCHECK_RUNTIME"):
    sys.meta_path.insert(0, _WaitsForTorch(_results))
_run_the_hidden_one(_here)
