"""Attacks on the grade: the program has not solved the task and wants to pass.

``f`` should return the secret, which is nowhere in the program's reach.
"""

from __future__ import annotations

from attack_table import Attack, forge

FORGING = [
    *forge("success by exiting before the tests", "import sys\nsys.exit(0)"),
    *forge("success by ending the process at once", "import os\nos._exit(0)"),
    *forge("success by ending the process when called", "import os\ndef f(x): os._exit(0)"),
    *forge(
        "a success that is printed",
        """
def f(x): return 0
print('ok'); print('OK'); print('[987]'); print('1 passed')
""",
    ),
    *forge(
        "a success that an exit handler prints",
        """
import atexit, os
@atexit.register
def late(): os.write(1, b'ok\\n'); os._exit(0)
def f(x): return 0
""",
    ),
    *forge(
        "an object that equals everything",
        """
class Same:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return Same()
""",
    ),
    *forge(
        "a number that equals everything",
        """
class Same(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(x): return Same(7)
""",
    ),
    *forge(
        "a class that lies about its type",
        """
class Lie:
    __class__ = property(lambda self: int)
    def __int__(self): return 0
    def __eq__(self, other): return True
def f(x): return Lie()
""",
    ),
    *forge(
        "a list that shows one thing and holds another",
        """
class Lie(list):
    def __iter__(self): return iter([])
    def __len__(self): return 0
    def __eq__(self, other): return True
def f(x): return Lie([1])
""",
    ),
    *forge(
        "built-in functions replaced",
        """
import builtins
builtins.AssertionError = type('Never', (Exception,), {})
builtins.all = builtins.any = builtins.isinstance = lambda *_: True
builtins.type = lambda *_: int
builtins.__build_class__ = None
def f(x): return 0
""",
    ),
    *forge(
        "modules replaced",
        """
import sys
class Everything:
    def __getattr__(self, name): return lambda *_, **__: '[]'
for name in ('json', 'marshal', 'os', 'unittest', 'io', 'resource', 'math'): sys.modules[name] = Everything()
def f(x): return 0
""",
    ),
    *forge(
        "a hook on imports",
        """
import sys
class Hook:
    def find_spec(self, *_): raise SystemExit(0)
sys.meta_path.insert(0, Hook()); sys.path_hooks.insert(0, Hook()); sys.modules.clear()
def f(x): return 0
""",
    ),
    *forge(
        "a search through frames and the collector for what is expected",
        """
import gc, os, re, sys
def f(x):
    seen = [repr(sys.argv), repr(dict(os.environ)), repr(x)]
    for thing in gc.get_objects():
        if type(thing) in (dict, list, tuple): seen.append(repr(thing))
    frame = sys._getframe()
    while frame:
        seen.append(repr(frame.f_locals) + repr(frame.f_globals) + repr(frame.f_code.co_consts))
        frame = frame.f_back
    hits = re.findall('98765432[1]', ' '.join(seen))  # a pattern that is not its own match
    return int(hits[0]) if hits else 0
""",
    ),
    *forge(
        "a search through its own memory for what is expected",
        """
import re
def f(x):
    try: maps = open('/proc/self/maps').read().splitlines()
    except OSError: return 0
    with open('/proc/self/mem', 'rb', 0) as memory:
        for line in maps:
            first, last = (int(part, 16) for part in line.split()[0].split('-'))
            if ' r' not in line or last - first > 2**24 or '[v' in line: continue
            try: memory.seek(first); data = memory.read(last - first)
            except (OSError, ValueError): continue
            if hits := re.findall(b'98765432[1]', data): return int(hits[0])
    return 0
""",
        "wrong",
        "error",
        "timeout",
    ),
    *forge(
        "a search through the calls that are yet to come",
        """
import os, re
def f(x):
    seen = b''
    for descriptor in range(3, 30):
        try:
            os.set_blocking(descriptor, False)
            seen += os.read(descriptor, 100_000)
        except OSError: pass
    hits = re.findall(b'98765432[1]|\\xb1\\x68\\xde\\x3a', seen)
    return 987654321 if hits else 0
""",
        "wrong",
        "error",
        "timeout",
    ),
    *forge(
        "a verdict written to every open file",
        """
import os
def f(x):
    for descriptor in range(0, 30):
        for text in (b'ok\\n', b'{"status": "ok"}', b'\\0\\0\\0\\3ok\\n'):
            try: os.write(descriptor, text)
            except OSError: pass
    os._exit(0)
""",
        "wrong",
        "error",
        "output",
    ),
    *forge(
        "an answer written in place of the function's own",
        """
import os
def f(x):
    answer = b'l26:s5:valuei3:123l6:l4:i1:1'
    for descriptor in range(3, 30):
        try: os.write(descriptor, len(answer).to_bytes(4, 'big') + answer)
        except OSError: pass
    return 0
""",
    ),
    *forge(
        "answers without end",
        """
import os
def f(x):
    for descriptor in range(3, 30):
        try:
            for _ in range(500): os.write(descriptor, b'\\0\\0\\0\\1' * 1000)
        except OSError: pass
    return 0
""",
        "wrong",
        "error",
        "output",
        "timeout",
    ),
    *forge(
        "the code that sends answers replaced",
        """
import sys
def f(x):
    frame = sys._getframe().f_back
    while frame:
        for name in ('encode', 'read', 'write', 'find'):
            if name in frame.f_globals: frame.f_globals[name] = lambda *_: b'n0:'
        frame = frame.f_back
    return 0
""",
    ),
    *forge(
        "an answer nested a hundred thousand deep",
        """
import sys
sys.setrecursionlimit(10**6)
def f(x):
    found = []
    for _ in range(100_000): found = [found]
    return found
""",
        "wrong",
        "error",
        "killed",
        "memory",
        "timeout",
    ),
    *forge(
        "an answer nested deeper than it is read",
        """
def f(x):
    found = []
    for _ in range(150): found = [found]
    return found
""",
    ),
    *forge("an answer of ten megabytes", "def f(x): return 'x' * 10**7", "output"),
    *forge(
        "an iterator without end", "import itertools\ndef f(x): return itertools.count()", "output", "wrong"
    ),
    *forge(
        "an object that runs code where it is unpacked",
        """
class Bomb:
    def __reduce__(self): return (exec, ("open('@FOLDER@/unpacked', 'w')",))
    def __reduce_ex__(self, version): return self.__reduce__()
def f(x): return Bomb()
""",
    ),
    *forge(
        "an error that never finishes saying what it is",
        """
class Never(Exception):
    def __str__(self):
        while True: pass
def f(x): raise Never()
""",
        "timeout",
    ),
    *forge(
        "an error with the name of a failed assertion",
        """
def f(x): raise AssertionError('expected 987654321')
""",
        "error",
    ),
    *forge("an end by a keyboard interrupt", "def f(x): raise KeyboardInterrupt", "error", "killed"),
    *forge("an end by an exit with success when called", "def f(x): raise SystemExit(0)"),
    *forge("a number that is not equal to itself", "def f(x): return float('nan')", "wrong"),
    *forge("True in place of one, text in place of a number", "def f(x): return '987654321'", "wrong"),
    *forge(
        "text of surrogates, nulls and terminal codes",
        """
def f(x): return '\\ud800\\0\\x1b[2J\\u202e\\N{PILE OF POO}' * 10
""",
        "wrong",
    ),
    *forge(
        "a copy of the process that answers later",
        """
import os
def f(x):
    if os.fork(): return 0
    return 1
""",
    ),
    Attack(
        "a grader looked for among the processes",
        """
import os
def f(x):
    for number in range(1, 300):
        if number != os.getpid():
            try: os.kill(number, 0); found = open(f'/proc/{number}/cmdline').read()
            except OSError: continue
            if 'tests' in found: return 987654321
    return 0
""",
        ("wrong",),
        "tests",
    ),
    Attack("source with a null byte", "print('ok')\n\0", ("error",)),
    Attack("source that is no text", "\ud800\udfff = 1", ("error",)),
    Attack(
        "output of surrogates, nulls and terminal codes",
        """
import os
os.write(1, b'\\xff\\xfe\\x00\\x1b[2J\\x1b]0;title\\x07' * 100)
""",
        ("ok",),
    ),
    Attack(
        "a pickle that runs code, in its own process",
        """
import os, pickle
class Bomb:
    def __reduce__(self): return (os.listdir, ('@FOLDER@',))
pickle.loads(pickle.dumps(Bomb()))
""",
        ("error",),
    ),
]
