"""The worker process: loads torch, warms up, drops its rights, and then answers requests from its standard input.

Answers are lines of JSON: `{"ready": true}` or `{"missing": …}` first, `{"at": …}` before each case, and `{"result":
…}`, `{"failed": …}` or `{"refused": …}` at the end of a request.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import CodeType
from typing import Any, TextIO

from clipcheck.verify import seal

Say = Callable[[str], None]
Answers = Callable[[Any, Say], Any]


def serve(kind: str, seconds: float, readable: list[str]) -> None:
    """Answers requests of a kind, `sites` or `fixtures`, until the input ends; no case may take longer than `seconds`.

    Fixtures come with clipcheck, and may read files below `readable`: the libraries that they load.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(nowhere.fileno(), 1)  # so that what a program prints is not taken for an answer

    def say(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")

    def at(case: str) -> None:
        _end_in(seconds, nowhere)
        say(at=case)

    try:
        import torch
    except ImportError as error:
        say(missing=str(error).partition("\n")[0])
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # displaying one reads the source
    answer, compilers = _fixtures() if kind == "fixtures" else _sites()
    seal.confine(readable)
    requests = _requests()
    seal.watch(readable, compilers)
    say(ready=True)
    for line in requests:
        _end_in(seconds, nowhere)
        try:
            say(result=answer(json.loads(line), at))
        except seal.Refused as error:
            say(refused=str(error))
        except Exception as error:
            say(failed=f"{type(error).__name__}: {error}".partition("\n")[0])
        faulthandler.cancel_dump_traceback_later()


def _sites() -> tuple[Answers, frozenset[CodeType]]:
    from clipcheck.verify import warm
    from clipcheck.verify.importing import load
    from clipcheck.verify.rehearse import rehearse
    from clipcheck.verify.replay import COMPILERS, replay

    def answer(request: Any, at: Say) -> Any:
        return ways[request["way"]](request["experiment"], at)

    ways: dict[str, Callable[[Any, Say], Any]] = {"values": replay, "training": rehearse, "imports": load}

    warm.sites()
    return answer, COMPILERS


def _fixtures() -> tuple[Answers, frozenset[CodeType]]:
    from clipcheck.verify import warm
    from clipcheck.verify.claims import Claim
    from clipcheck.verify.trial import judge

    def answer(request: Any, at: Say) -> Any:
        at("the pair")
        before, after = request["pair"]
        return judge(Claim(request["claim"]), before, after, request["to_torch"])

    warm.fixtures()
    return answer, frozenset()


def _end_in(seconds: float, nowhere: TextIO) -> None:
    """Ends the process after so many seconds, whatever it is doing, even if its parent is gone."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)


def _requests() -> Iterator[str]:
    """The lines of the input, read by a separate thread: when they end, the process ends, busy or not."""
    lines: SimpleQueue[str] = SimpleQueue()
    end = os._exit  # the code that runs could replace the original

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        end(0)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)
