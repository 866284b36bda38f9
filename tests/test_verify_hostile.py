"""Hostile sites: none leaves a trace, with both lines of defense, with only the second one, or with half of that."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import runner
from hostile_sites import BUILTINS, PAYLOADS, SITES, Ground, prepare, program

from clipcheck.cli.main import main
from clipcheck.verify import allowed, libraries, seal, worker
from clipcheck.verify.worker import Lost, NoTorch, Worker

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

LINUX = sys.platform == "linux"
SECRET = "hunter2"
GOOD = "import torch\n\n\ndef step(model):\n    torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"
RAN = re.compile(r"(before|after): ")  # a reason that names the side of a case: it was run


class Watched:
    """A project with hostile files, and everything that shows whether one of them did something."""

    def __init__(self, root: Path) -> None:
        self.project, folder, evil = root / "project", root / "traces", root / "evil"
        for made in (self.project, folder, evil):
            made.mkdir()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.ground = Ground(folder, self.listener.getsockname()[1], evil)
        prepare(self.ground)
        (evil / "secret.txt").write_text(SECRET, encoding="utf-8")
        self.evil = self._state()
        self.output = ""

    def add(self, name: str, site: str) -> None:
        (self.project / f"{name}.py").write_text(program(site, self.ground, name), encoding="utf-8")

    def run(self, *codes: int) -> dict[str, list[dict[str, str]]]:
        """The verdicts by file, from the real command in this process; the sites run in the worker's."""
        words = ["--fix", "--verify", "--isolated", "--select", "CLIP002", "--output-format", "json"]
        done = runner().invoke(main, [*words, str(self.project)])
        assert done.exit_code in (codes or (0, 1)), done.output
        self.output = done.stdout + done.stderr
        verdicts: dict[str, list[dict[str, str]]] = {}
        for finding in json.loads(done.stdout):
            if finding["verdict"]:
                verdicts.setdefault(Path(finding["filename"]).stem, []).append(finding["verdict"])
        return verdicts

    def _state(self) -> dict[str, tuple[int, float, bytes]]:
        files = {path.name: path for path in self.ground.evil.iterdir()}
        return {n: (p.stat().st_mode, p.stat().st_mtime, p.read_bytes()) for n, p in files.items()}

    def traces(self) -> set[str]:
        found = {path.name.removesuffix(".npy") for path in self.ground.folder.iterdir()}
        try:
            while self.listener.accept():
                found.add("a connection")
        except BlockingIOError:
            pass
        if SECRET in self.output:
            found.add("a secret")
        if self._state() != self.evil:
            found.add("a changed file")
        return found


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    one = Watched(tmp_path)
    yield one
    one.listener.close()


def without_allowlist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "check", lambda root, names: None)


def without(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """Disables parts of the second line of defense: names of functions of `clipcheck.verify.seal`."""
    away = "".join(f"seal.{part} = lambda *given: None\n" for part in parts)
    boot = worker._BOOT.replace("serve(kind,", f"from clipcheck.verify import seal\n{away}serve(kind,")
    monkeypatch.setattr(worker, "_BOOT", boot)


def add_payloads(watched: Watched, *names: str) -> None:
    for name in names:
        watched.add(name, PAYLOADS[name][0])


# --- the first line of defense --------------------------------------------------------------------------------------


def test_no_hostile_site_is_run(watched: Watched) -> None:
    names = [f"{kind} {index}" for kind, sites in SITES.items() for index in range(len(sites))]
    assert len(names) >= 60 and len(SITES) >= 12
    for name in names:
        kind, _, index = name.rpartition(" ")
        watched.add(name, SITES[kind][int(index)])
    before = {path.name: path.read_bytes() for path in watched.project.iterdir()}
    verdicts = watched.run()
    assert watched.traces() == set()
    assert set(verdicts) == set(names)
    for name, found in verdicts.items():
        assert {verdict["kind"] for verdict in found} == {"not-verified"}, name
        assert not any(RAN.search(verdict["reason"]) for verdict in found), (name, found)
    assert {path.name: path.read_bytes() for path in watched.project.iterdir()} == before


NESTED = """\
from torch.nn.utils import clip_grad_norm


def step(model, limits):
    clip_grad_norm(model.parameters(), limits[f"{limits["a"]}"])
"""
LONG = GOOD.replace("1.0", "[" + "1.0, " * 8000 + "]")


@pytest.mark.parametrize("text", [NESTED, LONG], ids=["a nested f-string", "a long list"])
def test_a_site_that_cannot_be_parsed_does_not_stop_the_others(watched: Watched, text: str) -> None:
    (watched.project / "a.py").write_text(text, encoding="utf-8")
    (watched.project / "b.py").write_text(GOOD, encoding="utf-8")
    watched.run()
    fixed = (watched.project / "b.py").read_text(encoding="utf-8")
    assert "clip_grad_norm_(model.parameters(), 1.0)" in fixed
    assert (watched.project / "a.py").read_text(encoding="utf-8") == text


# --- the second line of defense -------------------------------------------------------------------------------------


def test_the_second_line_of_defense_is_enough(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    without_allowlist(monkeypatch)
    add_payloads(watched, *PAYLOADS)
    verdicts = watched.run()
    assert watched.traces() == set()
    assert set(verdicts) == set(PAYLOADS)
    for name, found in verdicts.items():
        assert {verdict["kind"] for verdict in found} == {"not-verified"}, (name, found)


def test_what_python_can_deny_is_enough(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without restrictions. What libraries do in native code is not seen then."""
    without_allowlist(monkeypatch)
    without(monkeypatch, "confine")
    unseen = {"a file that torch opens itself", "a writer of torch's", "a pipe with a name", "a file of torch's"}
    add_payloads(watched, *(name for name in PAYLOADS if name not in unseen))
    watched.run()
    assert watched.traces() == set()


@pytest.mark.skipif(not LINUX, reason="Landlock and seccomp are Linux's")
def test_what_the_kernel_denies_is_enough(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    without_allowlist(monkeypatch)
    without(monkeypatch, "watch")
    # Running code from a string needs no system call; what the code then does is another payload.
    add_payloads(watched, *PAYLOADS)
    watched.run()
    assert watched.traces() == set()


@pytest.mark.skipif(not LINUX, reason="some payloads are POSIX's")
def test_without_defenses_the_payloads_leave_traces(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    without_allowlist(monkeypatch)
    without(monkeypatch, "confine", "watch")
    harm = {name for name, (_, traces) in PAYLOADS.items() if traces}
    add_payloads(watched, *harm)
    watched.run(2)  # the second time there is a folder already, so the fixes look wrong
    signs = {"a pickle": "loaded", "a connection by hand": "a connection"}
    assert watched.traces() - {"a changed file"} == {signs.get(name, name) for name in harm}


def site(expression: str) -> dict[str, object]:
    side = [f"def site():\n    value__0 = {expression}\n    return ('locals', bound__now())", {}]
    roles = {"parameters__0__call": "parameters"}
    experiment = {"before": side, "after": side, "reference": side, "roles": roles, "seeds": [], "kept": []}
    return {"way": "values", "experiment": experiment}


READ = {
    "by Python": "{builtins}['len']({builtins}['open']({path!r}).read())",
    "by a descriptor": "{builtins}['len']({builtins}['__import__']('os').read({builtins}['__import__']('os').open({path!r}, 0), 9))",
}


@pytest.mark.parametrize("how", READ)
@pytest.mark.parametrize("away", [["confine", "watch"], ["watch"], ["confine"], []], ids=" and ".join)
def test_a_secret_is_read_only_without_defenses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, away: list[str]
) -> None:
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    without(monkeypatch, *away)
    if away == ["watch"] and not LINUX:
        pytest.skip("Landlock is Linux's")
    with Worker("sites") as one:
        answer = one.ask(site(READ[how].format(builtins=BUILTINS, path=str(tmp_path / "secret"))))
    if len(away) == 2:
        assert answer == [30, [], "", "", "", ""]
    elif away == ["watch"]:
        assert answer[2] == "every case"  # the read raises, before and after
    else:
        assert isinstance(answer, Lost) and "(open " in answer.how


def test_what_a_worker_is_denied_says_nothing_about_a_fix() -> None:
    with Worker("sites") as one:
        answer = one.ask(site(f"{BUILTINS}['open']('x')"))
        assert isinstance(answer, Lost) and answer.harmless and "open x" in answer.how
        assert one.ask(site("1.0")) == [30, [], "", "", "", ""]  # it goes on


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_worker_has_limits_and_nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    with Worker("sites") as one:
        one.ask(site("1.0"))
        assert one._process is not None
        about = Path(f"/proc/{one._process.pid}")
        limits = dict(re.findall(r"^(Max [a-z ]+?) {2,}(\d+) ", (about / "limits").read_text(), re.MULTILINE))
        assert limits["Max open files"] == limits["Max file size"] == limits["Max core file size"] == "0"
        assert int(limits["Max cpu time"]) == seal.CPU_SECONDS
        assert int(limits["Max data size"]) == seal.MEMORY_BYTES < int(limits["Max address space"]) < 1 << 40
        assert "SECRET_TOKEN" not in (about / "environ").read_text()
        assert os.readlink(about / "cwd").endswith(" (deleted)")
        assert not any((about / "fd" / fd).resolve().is_file() for fd in os.listdir(about / "fd"))


def test_a_worker_outlives_the_thread_that_started_it() -> None:
    with Worker("sites") as one:
        thread = threading.Thread(target=one._start)
        thread.start()
        thread.join()
        first = one._process
        assert one.ask(site("1.0")) == [30, [], "", "", "", ""] and one._process is first


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_busy_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    text = "from clipcheck.verify import worker\n"
    text += "one = worker.Worker('sites', 60.0)\none._start()\nprint(one._process.pid, flush=True)\n"
    busy = site("[1.0 for a in (1.0,) * 9 ** 6 for b in (1.0,) * 9 ** 6 if b > 2.0]")
    text += f"one.ask({busy!r})\n"
    parent = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1.0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


# --- where libraries come from --------------------------------------------------------------------------------------


def test_nothing_of_the_checked_folder_is_imported(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    harm = f"import os\nos.mkdir({str(watched.ground.folder / 'imported')!r})\n"
    for name in ("torch", "numpy", "sitecustomize", "usercustomize", "sympy", "typing_extensions", "clipcheck_x"):
        (watched.project / f"{name}.py").write_text(harm, encoding="utf-8")
    (watched.project / "train.py").write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(watched.project)
    monkeypatch.setattr(sys, "path", [str(watched.project), "", str(watched.project), *sys.path[1:]])
    assert {verdict["kind"] for found in watched.run().values() for verdict in found} <= {"verified"}
    assert "clip_grad_norm_(" in (watched.project / "train.py").read_text(encoding="utf-8")
    assert watched.traces() == set()


def test_torch_is_found_beside_the_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "pytorch"
    (built / "torch").mkdir(parents=True)
    (built / "torch" / "__init__.py").touch()
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.setattr(sys, "path", ["", str(installed), str(built)])
    assert libraries.path() == [str(installed), str(built)]
    monkeypatch.chdir(built)
    assert libraries.path() == [str(installed)]


def test_invalid_output_is_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("[" * 5000, "nonsense", '"x" * 9', '{"result"'):
        boot = f"print('{{\"ready\": true}}'); input(); print({line!r}, flush=True); input()"
        monkeypatch.setattr(worker, "_BOOT", boot)
        with Worker("sites") as one:
            assert one.ask({}) == Lost("the start", "sent an invalid answer", harmless=True)


def test_a_process_that_hangs_at_the_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_BOOT", "import time; time.sleep(99)")
    monkeypatch.setattr(worker, "START_SECONDS", 0.5)
    with pytest.raises(NoTorch, match="ended or hangs"), Worker("sites") as one:
        one.ask({})
