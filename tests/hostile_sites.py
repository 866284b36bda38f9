"""Expressions that try to leave a trace when a verification runs them, each in the call of a clip with a fix."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple


class Ground(NamedTuple):
    """Where traces would show: `folder` stays empty, `port` gets no connection, and `secret` is not in the output."""

    folder: Path
    port: int
    evil: Path  # files that are harmful when loaded


SITE = """\
{imports}
import torch
from torch.nn.utils import clip_grad_norm


def step(model):
    clip_grad_norm(model.parameters(), 1.0, error_if_nonfinite={expression})
"""
# How Python code can reach everything without an import: the builtins of a module that any class leads to.
BUILTINS = (
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'catch_warnings'][0]()._module.__builtins__"
)


def program(site: str, ground: Ground, name: str) -> str:
    """A module with one hostile site; the part of a site before ` :: ` is imports."""
    imports, _, expression = site.rpartition(" :: ")
    trace = str(ground.folder / name)
    expression = expression.replace("TRACE", repr(trace)).replace("PORT", str(ground.port))
    expression = expression.replace("EVIL", repr(str(ground.evil)))
    code = f"builtins.__import__('os').mkdir({trace!r})"
    return SITE.format(imports=imports, expression=expression.replace("CODE", repr(code)))


class _Evil:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, (self.trace,)


def prepare(ground: Ground) -> None:
    """Files in `evil` that create a folder when they are loaded: a pickle, a module for torch.hub, a module."""
    trace = str(ground.folder / "loaded")
    (ground.evil / "evil.pkl").write_bytes(pickle.dumps(_Evil(trace)))
    (ground.evil / "hubconf.py").write_text(f"import os\nos.mkdir({trace!r})\ndef x(): pass\n", encoding="utf-8")
    (ground.evil / "a.py").write_text(f"import os\nos.mkdir({trace!r})\n", encoding="utf-8")


# By kind. The first line of defense must refuse all of them.
SITES: dict[str, list[str]] = {
    "functions as values": [
        "import builtins :: max([CODE], key=builtins.exec)",
        "import builtins :: min([CODE], key=builtins.eval)",
        "from builtins import exec as longest :: max([CODE], key=longest)",
        "import builtins :: list(map(builtins.exec, [CODE]))",
        "max([CODE], key=exec)",
        "any(map(eval, [CODE]))",
        "import os :: max([TRACE], key=os.mkdir)",
        "import os :: list(filter(os.mkdir, [TRACE]))",
        "import builtins :: list(map(builtins.open, [TRACE], ['w']))",
        "import os :: sorted([TRACE], key=os.mkdir)",
        "import builtins, functools :: functools.reduce(builtins.exec, [CODE, {}])",
        "import functools :: functools.reduce(lambda make, name: make(name), [torch.os.mkdir, TRACE])",
        "import functools, os :: functools.reduce(os.mkdir, [TRACE], 511)",
        "from functools import reduce :: reduce(eval, [CODE], {})",
        "import functools :: functools.partial(torch.os.mkdir, TRACE)()",
    ],
    "attributes of allowed modules": [
        "max([TRACE], key=torch.os.mkdir)",
        "torch.os.mkdir(TRACE)",
        "min([TRACE], key=torch.nn.utils.clip_grad.torch.os.mkdir)",
        "import torch.nn.utils :: max([TRACE], key=torch.serialization.os.mkdir)",
        "torch.sys.modules['os'].mkdir(TRACE)",
        "max([f'touch {TRACE}'], key=torch.os.system)",
        "import numpy as np :: max([TRACE], key=np.lib._datasource.os.mkdir)",
        "import itertools :: list(itertools.starmap(torch.os.mkdir, [(TRACE,)]))",
        "torch.Tensor.__init_subclass__.__self__.__base__.__subclasses__()",
    ],
    "default arguments and lambda bodies": [
        "(lambda x=torch.os.mkdir(TRACE): x)()",
        "(lambda: torch.os.mkdir(TRACE))()",
        "max([1], key=lambda x: torch.os.mkdir(TRACE))",
        "max([TRACE], key=lambda x, make=torch.os.mkdir: make(x))",
        "list(map(lambda make: make(TRACE), [torch.os.mkdir]))",
        "list(filter(lambda p: exec(CODE), [1]))",
        "(lambda sum: sum(TRACE))(torch.os.mkdir)",
    ],
    "comprehensions and generators": [
        "[torch.os.mkdir(name) for name in [TRACE]]",
        "[make(TRACE) for make in [torch.os.mkdir]]",
        "any(make(TRACE) for make in (torch.os.mkdir,))",
        "[sum(TRACE) for sum in [torch.os.mkdir]]",
        "{torch.os.mkdir(TRACE) for x in [1]}",
        "{1: torch.os.mkdir(TRACE) for x in [1]}",
        "[1 for x in [1] if torch.os.mkdir(TRACE)]",
    ],
    "strings that become code": [
        "eval(CODE)",
        "exec(CODE)",
        "exec(compile(CODE, '', 'exec'))",
        "f'{torch.os.mkdir(TRACE)}'",
        "f'{1:{torch.os.mkdir(TRACE)}}'",
        "f'{[make(TRACE) for make in [torch.os.mkdir]]!r}'",
        "torch.jit.CompilationUnit(CODE)",
        "import timeit :: timeit.timeit(CODE, number=1)",
        "import typing :: typing.get_type_hints(typing.NamedTuple('A', [('x', CODE)]))",
        "import ast :: eval(ast.unparse(ast.parse(CODE)))",
    ],
    "assignment expressions and names bound to others": [
        "(make := torch.os.mkdir)(TRACE)",
        "[make := torch.os.mkdir, make(TRACE)]",
        "from os import mkdir as sum :: sum(TRACE)",
        "from os import mkdir as float :: max([TRACE], key=float)",
        "import os as math :: max([TRACE], key=math.mkdir)",
        "import os as torch :: torch.mkdir(TRACE)",
    ],
    "chains of attributes": [
        f"{BUILTINS}['exec'](CODE)",
        f"{BUILTINS}['__import__']('os').mkdir(TRACE)",
        "torch.norm.__globals__['__builtins__']['exec'](CODE)",
        "torch.nn.utils.clip_grad_norm_.__wrapped__.__globals__['torch'].os.mkdir(TRACE)",
        "model.parameters.__globals__['__builtins__']['exec'](CODE)",
        "(x for x in [1]).gi_frame.f_builtins['exec'](CODE)",
        "(0).__class__.__base__.__subclasses__()",
        "model.__class__.__init__.__globals__['torch'].os.mkdir(TRACE)",
        "max([CODE], key=torch.no_grad().__init__.__globals__['__builtins__']['exec'])",
        "''.__class__.__mro__[1].__subclasses__()",
    ],
    "getattr and operators": [
        "getattr(torch, 'os').mkdir(TRACE)",
        "getattr(getattr(torch, 'o' + 's'), 'mkdir')(TRACE)",
        "import operator :: operator.attrgetter('os.mkdir')(torch)(TRACE)",
        "import operator :: operator.methodcaller('mkdir', TRACE)(torch.os)",
        "import functools :: functools.reduce(getattr, ['os', 'mkdir'], torch)(TRACE)",
        "import functools :: functools.partial(torch.os.mkdir, TRACE)()",
        "vars(torch)['os'].mkdir(TRACE)",
        "model.__getattribute__('__class__')",
        "globals()['torch'].os.mkdir(TRACE)",
    ],
    "loading": [
        "torch.load(EVIL + '/evil.pkl', weights_only=False)",
        "torch.hub.load(EVIL, 'x', source='local')",
        "torch.ops.load_library(EVIL + '/a.so')",
        "torch.utils.cpp_extension.load('a', [EVIL + '/a.cpp'])",
        "torch.utils.cpp_extension.subprocess.run(['touch', TRACE])",
        "import numpy as np :: np.load(EVIL + '/evil.pkl', allow_pickle=True)",
        "import pickle :: pickle.load(open(EVIL + '/evil.pkl', 'rb'))",
        "import importlib.util as u :: u.spec_from_file_location('a', EVIL + '/a.py').loader.load_module()",
        "import runpy :: runpy.run_path(EVIL + '/a.py')",
        "import sys :: sys.path.insert(0, EVIL) or __import__('a')",
        "torch.package.PackageImporter(EVIL + '/evil.pkl')",
        "import ctypes :: ctypes.CDLL(None).mkdir(TRACE.encode(), 511)",
    ],
    "writing": [
        "open(TRACE, 'w')",
        "torch.save(1, TRACE)",
        "torch.from_file(TRACE, shared=True, size=1)",
        "import numpy as np :: np.save(TRACE, 0)",
        "import numpy as np :: np.zeros(1).tofile(TRACE)",
        "torch.zeros(1).numpy().tofile(TRACE)",
        "torch.zeros(1).numpy().dump(TRACE)",
        "import numpy as np :: np.memmap(TRACE, mode='w+', shape=(1,))",
        "import pathlib :: pathlib.Path(TRACE).touch()",
        "import sqlite3 :: sqlite3.connect(TRACE).execute('create table a (b)')",
        "import zipfile :: zipfile.ZipFile(TRACE, 'w').close()",
        "import logging :: logging.FileHandler(TRACE)",
        "import shutil :: shutil.copytree(EVIL, TRACE)",
        "import os :: os.mkfifo(TRACE)",
        "torch.zeros(1).apply_(lambda x: torch.os.mkdir(TRACE))",
        "model.apply(lambda m: torch.os.mkdir(TRACE))",
        "print(1, file=open(TRACE, 'w'))",
    ],
    "processes": [
        """import os :: os.system("mkdir '" + TRACE + "'")""",
        "import os :: os.popen('mkdir ' + TRACE).read()",
        "import subprocess :: subprocess.run(['mkdir', TRACE])",
        "import os :: os.posix_spawn('/bin/mkdir', ['mkdir', TRACE], {})",
        "import os :: os.fork() or os.execv('/bin/mkdir', ['mkdir', TRACE])",
        "import multiprocessing as m :: m.Process(target=torch.os.mkdir, args=(TRACE,)).start()",
        "import os :: os.kill(os.getppid(), 9)",
        "import os :: os._exit(0)",
    ],
    "the network": [
        "import socket :: socket.create_connection(('127.0.0.1', PORT))",
        "import urllib.request as u :: u.urlopen('http://127.0.0.1:PORT', timeout=2)",
        "torch.hub.download_url_to_file('http://127.0.0.1:PORT', TRACE)",
        "torch.distributed.TCPStore('127.0.0.1', PORT, is_master=False)",
        "import http.client as h :: h.HTTPConnection('127.0.0.1', PORT).request('GET', '/')",
    ],
    "the environment": [
        "import os :: float(os.environ['SECRET_TOKEN'])",
        "import os :: float(os.getenv('SECRET_TOKEN'))",
        "float(torch.os.environ['SECRET_TOKEN'])",
        "float('{0.os.environ[SECRET_TOKEN]}'.format(torch))",
        "float('{0.__class__.__init__.__globals__}'.format(model))",
        "float('%s' % torch.os.environ)",
        "float(open('/proc/self/environ').read())",
        "import os :: float(open(f'/proc/{os.getppid()}/environ').read())",
    ],
    "stars and keywords": [
        "max(*[[CODE]], **{'key': exec})",
        "print(*map(torch.os.mkdir, [TRACE]))",
        "sum([], start=torch.os.mkdir(TRACE))",
        "torch.sum(torch.zeros(1), out=open(TRACE, 'w'))",
        "torch.zeros(1, **{'out': torch.os.mkdir(TRACE)})",
    ],
    "numbers and loops without an end": [
        "10 ** 10 ** 10",
        "0xfffff ** 0xfffff ** 0xfffff",
        "1 << 10 ** 10",
        "'a' * 10 ** 12",
        "[0.0] * 1000000 * 1000000",
        "torch.zeros(1000000, 1000000)",
        "torch.ones(10 ** 6).expand(10 ** 6, 10 ** 6).contiguous()",
        "list(iter(int, 1))",
        "'%1000000000000d' % 1",
        "f'{1:1000000000000}'",
        "import itertools :: list(itertools.count())",
    ],
}

# For the second line of defense only: without the first one, these reach everything in Python. Those that leave a trace
# without any defense are marked, and a test without defenses checks that they do.
IMPORT = f"{BUILTINS}['__import__']"
PAYLOADS: dict[str, tuple[str, bool]] = {
    "a folder": (f"{IMPORT}('os').mkdir(TRACE)", True),
    "a file": (f"{BUILTINS}['open'](TRACE, 'w')", True),
    "a descriptor": (f"{IMPORT}('os').open(TRACE, 65)", True),
    "a path": (f"{IMPORT}('pathlib').Path(TRACE).touch()", True),
    "a pipe with a name": (f"{IMPORT}('os').mkfifo(TRACE)", True),
    "a symbolic link": (f"{IMPORT}('os').symlink('x', TRACE)", True),
    "a hard link": (f"{IMPORT}('os').link(EVIL + '/evil.pkl', TRACE)", True),
    "another name": (f"{IMPORT}('os').rename(EVIL + '/hubconf.py', TRACE)", True),
    "a database": (f"{IMPORT}('sqlite3').connect(TRACE).execute('create table a (b)')", True),
    "a file of torch's": (f"{IMPORT}('torch').save([1], TRACE)", True),
    "a file that torch opens itself": (f"{IMPORT}('torch').from_file(TRACE, shared=True, size=1)", True),
    "a writer of torch's": (f"{IMPORT}('torch')._C.PyTorchFileWriter(TRACE)", True),
    "a file of numpy's": (f"{IMPORT}('numpy').save(TRACE + '.npy', 0)", True),
    "a shell": (f"""{IMPORT}('os').system("mkdir '" + TRACE + "'")""", True),
    "a program": (f"{IMPORT}('subprocess').run(['mkdir', TRACE])", True),
    "a spawned program": (f"{IMPORT}('os').posix_spawn('/bin/mkdir', ['mkdir', TRACE], {{}})", True),
    "a copy of the process": (
        f"""{IMPORT}('os').fork() or {IMPORT}('os')._exit({IMPORT}('os').system("mkdir '" + TRACE + "'"))""",
        True,
    ),
    "a call of the C library": (f"{IMPORT}('ctypes').CDLL(None).mkdir(TRACE.encode(), 511)", True),
    "Python's own interface": (
        f"{IMPORT}('ctypes').pythonapi.PyRun_SimpleString(b'import os; os.mkdir(' + TRACE.__repr__().encode() + b')')",
        True,
    ),
    "a pickle": (f"{IMPORT}('pickle')._load({BUILTINS}['open'](EVIL + '/evil.pkl', 'rb'))", True),
    "code from a string": (f"{BUILTINS}['exec'](CODE, {{'builtins': {IMPORT}('builtins')}})", True),
    "a connection": (f"{IMPORT}('socket').create_connection(('127.0.0.1', PORT), 2)", True),
    "a connection by hand": (f"{IMPORT}('_socket').socket().connect(('127.0.0.1', PORT))", True),
    "a secret file": (f"float({BUILTINS}['open'](EVIL + '/secret.txt').read())", False),
    "a secret file by its descriptor": (
        f"float({IMPORT}('os').read({IMPORT}('os').open(EVIL + '/secret.txt', 0), 99).decode())",
        False,
    ),
    "the environment": (f"float({IMPORT}('os').environ['SECRET_TOKEN'])", False),
    "the environment of the parent": (
        f"float({BUILTINS}['open']('/proc/%d/environ' % {IMPORT}('os').getppid()).read())",
        False,
    ),
    "a signal": (f"{IMPORT}('os').kill({IMPORT}('os').getppid(), 0)", False),
    "a mode": (f"{IMPORT}('os').chmod(EVIL + '/evil.pkl', 0)", False),
    "a time": (f"{IMPORT}('os').utime(EVIL + '/evil.pkl', (0, 0))", False),
    "no more of a file": (f"{IMPORT}('os').truncate(EVIL + '/evil.pkl', 1)", False),
    "a file less": (f"{IMPORT}('os').remove(EVIL + '/a.py')", False),
    "its own limits": (f"{IMPORT}('resource').setrlimit(7, (99, 99))", False),
    "all objects": (f"{IMPORT}('gc').get_objects()", False),
    "the end of the process": (f"{IMPORT}('os')._exit(0)", False),
}
