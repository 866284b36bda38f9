"""How long an editor waits: from the last key to the diagnostics for it, through a real client over stdio.

    python benchmarks/keystroke.py [FILE] [--lines N] [--keys N] [--pause SECONDS]

Without FILE, it is demo/train.py with its two faults among N lines, the rest being the standard library's argparse;
with --dense, demo/train.py is repeated until it has N lines, with a fault in every twentieth. A comment is typed into
the first empty line of the text's second half, one letter a pause; each letter's time runs from the client's sending of
it to its receipt of the diagnostics for that very version of the text. With --half it is an open parenthesis that is
typed, so that no version is Python. The pause is long enough for each letter to be the last key before an answer; with a
shorter one than the server waits for, letters are looked at together.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

HERE = Path(__file__).resolve().parent.parent
URI = (HERE / "typed.py").as_uri()


def program(dense: bool, lines: int) -> str:
    one = (HERE / "demo" / "train.py").read_text(encoding="utf-8").splitlines(keepends=True)
    rest = one * (lines // len(one)) if dense else inspect.getsource(argparse).splitlines(keepends=True)
    text = [*one, *rest][:lines]
    while not text[-1].startswith(("def ", "class ", "if __name__")):  # end where a statement of the top level does
        text.pop()
    return "".join(text[:-1])


async def measure(text: str, keys: int, pause: float, first: str) -> list[float]:
    client = LanguageClient("keystroke", "1")
    sent: dict[int, float] = {}
    taken: dict[int, float] = {}
    news = asyncio.Event()

    @client.feature(lsp.WINDOW_LOG_MESSAGE)
    def logged(params: lsp.LogMessageParams) -> None:
        sys.exit(params.message)

    @client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
    def published(params: lsp.PublishDiagnosticsParams) -> None:
        now = time.perf_counter()
        assert params.version is not None
        taken[params.version] = now - sent[params.version]
        news.set()

    async def until(version: int) -> None:
        while version not in taken:
            news.clear()
            await asyncio.wait_for(news.wait(), 60)

    await client.start_io(sys.executable, "-m", "clipcheck", "server", cwd=HERE)
    await client.initialize_async(lsp.InitializeParams(lsp.ClientCapabilities(), root_uri=HERE.as_uri()))
    client.initialized(lsp.InitializedParams())
    sent[0] = time.perf_counter()
    client.text_document_did_open(lsp.DidOpenTextDocumentParams(lsp.TextDocumentItem(URI, "python", 0, text)))
    await until(0)
    print(f"opened: {taken.pop(0) * 1e3:.0f} ms, with all that is loaded for the first file")
    lines = text.split("\n")
    line = lines.index("", len(lines) // 2)  # to comment out the head of a block would leave no Python
    for version in range(1, keys + 1):
        letter = first if version == 1 else "x"
        at = lsp.Position(line, version - 1)
        sent[version] = time.perf_counter()
        client.text_document_did_change(
            lsp.DidChangeTextDocumentParams(
                lsp.VersionedTextDocumentIdentifier(version, URI),
                [lsp.TextDocumentContentChangePartial(lsp.Range(at, at), letter)],
            )
        )
        await asyncio.sleep(pause)
    await until(keys)
    await client.shutdown_async(None)
    client.exit(None)
    await client.stop()
    return [taken[version] for version in sorted(taken)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    text = options.file.read_text(encoding="utf-8") if options.file else program(options.dense, options.lines)
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("libcst", "pygls"))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}{load}")
    times = sorted(
        1e3 * one for one in asyncio.run(measure(text, options.keys, options.pause, "(" if options.half else "#"))
    )
    print(
        f"{text.count(chr(10))} lines, {options.keys} keystrokes, {len(times)} answers: "
        f"median {statistics.median(times):.0f} ms, nine of ten within {times[int(0.9 * (len(times) - 1))]:.0f} ms, "
        f"longest {times[-1]:.0f} ms"
    )


if __name__ == "__main__":
    main()
