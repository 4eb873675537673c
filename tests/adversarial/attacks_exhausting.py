"""Attacks that use too much: time, processes, memory, output, files."""

from __future__ import annotations

from attack_table import Attack, escape

EXHAUSTING = [
    Attack("an endless loop", "while True: pass", ("timeout",)),
    Attack("a long sleep", "import time; time.sleep(60)", ("timeout",)),
    Attack(
        "a loop that ignores every signal",
        """
import signal
for number in range(1, signal.NSIG):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
        ("timeout",),
    ),
    Attack("a process that stops itself", "import os; os.kill(os.getpid(), 19)", ("timeout", "ok")),
    Attack(
        "all output closed, then a long sleep",
        """
import os, time
os.closerange(0, 64)
time.sleep(60)
""",
        ("timeout",),
    ),
    Attack(
        "a thread that outlives the program",
        """
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
""",
        ("timeout",),
    ),
    Attack(
        "an exit handler that never returns",
        """
import atexit
@atexit.register
def forever():
    while True: pass
""",
        ("timeout",),
    ),
    escape(
        "256 children from one parent",
        """
import time
made = 0
try:
    for _ in range(256):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except OSError as error:
    print('held:', made, error)
print('ESCAPED' if made > 20 else 'few')
sys.stdout.flush()
os._exit(0)
""",
    ),
    Attack(
        "children that fork in turn, 8 generations deep",
        """
import os, time
for _ in range(8):
    try: os.fork()
    except OSError: pass
time.sleep(30)
""",
        ("timeout", "killed"),
    ),
    escape(
        "256 threads",
        """
import threading, time
made = []
def start():
    for _ in range(256):
        made.append(threading.Thread(target=time.sleep, args=(30,), daemon=True))
        made[-1].start()
attempt(start)
print('ESCAPED' if len(made) > 20 else 'few')
sys.stdout.flush()
os._exit(0)
""",
    ),
    Attack("one object of ten gigabytes", "x = 'a' * 10**10", ("memory",)),
    Attack(
        "memory in small steps, to two gigabytes",
        """
kept = [bytearray(2**20) for _ in range(2048)]
print('ESCAPED')
""",
        ("memory",),
    ),
    Attack(
        "memory shared out among ten children, two gigabytes in all",
        """
import os, time
for _ in range(10):
    if os.fork() == 0:
        kept = bytearray(b'x') * (200 * 2**20)
        time.sleep(30)
time.sleep(30)
""",
        ("memory",),
    ),
    Attack(
        "a decompression bomb",
        """
import zlib
packer = zlib.compressobj(9)
bomb = b''.join(packer.compress(bytes(2**20)) for _ in range(1024)) + packer.flush()
print(len(zlib.decompress(bomb)), 'ESCAPED')
""",
        ("memory", "timeout"),
    ),
    escape(
        "mapped memory of a gigabyte",
        """
import mmap
attempt(lambda: mmap.mmap(-1, 2**30))
attempt(lambda: mmap.mmap(-1, 2**30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
""",
    ),
    escape(
        "shared memory of a gigabyte, unmapped all but a page, which keeps it with the kernel",
        """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
def refused(found):
    if found in (None, 2**64 - 1): raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
def keep(flags, opened=-1):
    for _ in range(16):
        start = refused(libc.mmap(None, 2**26, 3, flags, opened, 0))
        ctypes.memset(start, 120, 2**26)
        refused(libc.mremap(start, 2**26, 2**12, 0))
attempt(lambda: keep(0x21))
attempt(lambda: keep(0x1, os.open('/dev/zero', os.O_RDWR)))
attempt(lambda: keep(0x3, os.open('/dev/zero', os.O_RDWR)))
""",
    ),
    Attack(
        "memory paged out by ten children, two gigabytes in all",
        """
import ctypes, mmap, os, time
libc = ctypes.CDLL(None)
for _ in range(10):
    if os.fork() == 0:
        kept = mmap.mmap(-1, 200 * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for start in range(0, len(kept), 2**20):
            kept[start:start + 2**20] = b'x' * 2**20
            place = ctypes.addressof(ctypes.c_char.from_buffer(kept, start))
            libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(2**20), 21)
        time.sleep(30)
time.sleep(30)
""",
        ("memory",),
    ),
    escape(
        "System V shared memory, which outlives its maker",
        """
def segment():
    found = libc.shmget(0, 2**20, 0o1600)
    if found < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.shmctl(found, 0, None)
    return found
attempt(segment)
""",
        control=True,
    ),
    escape("files in memory without a name", "attempt(lambda: os.memfd_create('x'))", control=True),
    escape(
        "memory that cannot be swapped out",
        """
def lock():
    if libc.mlockall(3): raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
attempt(lock)
""",
    ),
    Attack("output without end", "while True: print('x' * 1000)", ("output",)),
    Attack(
        "error output without end",
        """
import sys
while True: sys.stderr.write('x' * 1000)
""",
        ("output",),
    ),
    Attack("fifty megabytes of output at once", "import os; os.write(1, b'x' * 50_000_000)", ("output",)),
    Attack(
        "output past the interpreter, through /dev/stdout",
        """
with open('/dev/stdout', 'w') as stream:
    for _ in range(100_000): stream.write('x' * 100)
""",
        ("output", "error"),
    ),
    escape("a file of five megabytes", "attempt(lambda: open('big', 'wb').write(b'x' * 5_000_000))"),
    escape("a sparse file of a terabyte", "attempt(lambda: os.truncate(open('big', 'w').name, 2**40))"),
    escape(
        "64 files of a megabyte each",
        """
def fill():
    for number in range(64):
        open(str(number), 'wb').write(b'x' * 2**20)
attempt(fill)
""",
    ),
    Attack(
        "20,000 empty files",
        """
import time
for number in range(20_000): open(str(number), 'w').close()
time.sleep(1)
""",
        ("output",),
    ),
    Attack(
        "folders within folders, 3,000 deep",
        """
import os, time
for _ in range(3000):
    os.mkdir('d'); os.chdir('d')
time.sleep(1)
""",
        ("output",),
    ),
    escape("256 open files", "attempt(lambda: [os.open('/dev/null', 0) for _ in range(256)])"),
    Attack(
        "pipes filled in 16 processes",
        """
import fcntl, os, time
for _ in range(16):
    try:
        if os.fork(): continue
    except OSError: break
    try:
        while True:
            end = os.pipe()[1]
            os.set_blocking(end, False)
            try: fcntl.fcntl(end, 1031, 2**20)
            except OSError: pass
            os.write(end, bytes(2**20))
    except OSError: time.sleep(30)
time.sleep(30)
""",
        ("timeout", "killed", "memory"),
    ),
    Attack("recursion without end", "def g(n): return g(n + 1)\ng(0)", ("error",)),
    Attack(
        "recursion in C, past the interpreter's count",
        """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, name): return getattr(self, name + 'x')
def g(): g()
g()
""",
        ("killed", "error", "memory", "timeout"),
    ),
    Attack(
        "source nested deeper than a parser goes",
        "eval('[' * 100_000)",
        ("error", "memory", "killed", "output"),
    ),
    Attack(
        "a key of ten thousand digits",
        "def f(x): return {10 ** 10_000: 1}",
        ("error", "wrong"),
        way="call",
    ),
    Attack("a value of ten thousand digits", "def f(x): return 10 ** 10_000", ("wrong",), way="call"),
    Attack(
        "an answer of values that all hash alike",
        """
def f(x):
    return dict.fromkeys((2**61 - 1) * k for k in range(1, 3_000))
""",
        ("wrong", "error", "output", "timeout"),
        way="call",
    ),
    Attack("an integer of a hundred million digits", "x = 10 ** 10 ** 8", ("timeout", "memory")),
    Attack(
        "an integer turned into text without a limit",
        """
import sys
sys.set_int_max_str_digits(0)
print(len(str(7 ** 10_000_000)))
""",
        ("timeout", "output"),
    ),
    Attack(
        "a regular expression that backtracks for ever",
        """
import re
re.match('(a+)+$', 'a' * 60 + 'b')
""",
        ("timeout",),
    ),
    Attack(
        "a comparison that never ends, of lists that hold themselves",
        """
a = []; b = []
a.append(b); b.append(a)
a == b
""",
        ("error",),
    ),
    Attack("a crash that leaves an image of memory", "import os; os.abort()", ("killed",)),
    Attack("a null pointer", "import ctypes; ctypes.string_at(0)", ("killed",)),
    escape(
        "its own limits raised",
        """
import resource
for name in ('CPU', 'AS', 'NPROC', 'NOFILE', 'FSIZE', 'CORE', 'MEMLOCK'):
    which = getattr(resource, 'RLIMIT_' + name)
    attempt(lambda: resource.setrlimit(which, (resource.getrlimit(which)[1] + 1,) * 2))
""",
    ),
    escape(
        "a better place in the queue for the processor",
        """
attempt(lambda: os.nice(-5))
attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
""",
    ),
]

SURVIVING = [
    Attack(
        "a daemon in a session of its own",
        """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(3): os.close(descriptor)
        time.sleep(60)
    os._exit(0)
os.wait()
""",
        ("ok",),
    ),
    Attack(
        "children that keep the output open",
        """
import os, time
if os.fork() == 0:
    time.sleep(60)
print('done')
""",
        ("ok",),
    ),
    Attack(
        "children that ignore every signal",
        """
import os, signal, time
if os.fork() == 0:
    for number in range(1, signal.NSIG):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    os.setsid()
    time.sleep(60)
""",
        ("ok",),
    ),
    Attack(
        "a new program that stays behind",
        """
import subprocess, sys
subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], start_new_session=True)
""",
        ("ok",),
    ),
]
