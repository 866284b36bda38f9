"""Where a worker finds torch and what torch needs: the folders of installed packages, and no other entry of `sys.path`.

A worker starts without `site`, so it runs no `.pth` file and no `sitecustomize`, and it can import nothing from the
checked folder, even if that is the current folder or on `PYTHONPATH`.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

_INSTALLED = ("site-packages", "dist-packages")


def path() -> list[str]:
    """The folders, in the order of `sys.path`; then that of torch, if it is installed elsewhere."""
    scripts_first = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
    entries = [entry for entry in sys.path[scripts_first:] if entry and os.path.isdir(entry)]
    installed = [entry for entry in entries if os.path.basename(os.path.normpath(entry)) in _INSTALLED]
    if PathFinder.find_spec("torch", installed) is None:
        here = os.path.realpath(os.curdir)
        elsewhere = [entry for entry in entries if os.path.realpath(entry) != here]
        spec = PathFinder.find_spec("torch", elsewhere)
        if spec is not None and spec.origin is not None:
            installed.append(str(Path(spec.origin).resolve().parents[1]))
    return [os.path.abspath(entry) for entry in installed]


def readable(path: Sequence[str]) -> list[str]:
    """The folders that loading a library reads from."""
    places = sysconfig.get_paths()
    own = str(Path(__file__).resolve().parents[1])
    system = [folder for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64") if os.path.isdir(folder)]
    prefixes = [os.path.join(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix)]
    return list(dict.fromkeys([*path, places["stdlib"], places["platstdlib"], own, *prefixes, *system]))
