"""Attacks that reach for what is outside: files, processes, networks, the kernel."""

from __future__ import annotations

from attack_table import Attack, escape

ESCAPING = [
    escape(
        "accounts and passwords of the machine",
        """
for path in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/etc/resolv.conf'):
    attempt(lambda: open(path).read())
""",
        control=True,
    ),
    escape(
        "the homes of its users",
        """
for path in ('/home', '/root/.ssh', '/root/.bashrc', os.path.expanduser('~/.profile')):
    attempt(lambda: os.stat(path))
""",
    ),
    escape("the project's files", "attempt(lambda: open('@TEST@').read())", control=True),
    escape("the results of other runs", "attempt(lambda: os.listdir('@FOLDER@'))", control=True),
    escape(
        "the packages that are installed",
        """
def packages():
    for folder in sys.path:
        for name in ('site-packages', 'dist-packages'):
            if os.listdir(os.path.join(folder, name)): return folder
    raise OSError('none')
attempt(packages)
attempt(lambda: __import__('numpy'))
""",
    ),
    escape(
        "a symbolic link to a file outside",
        """
os.symlink('@FOLDER@/grades.json', 'link')
attempt(lambda: open('link').read())
""",
        control=True,
    ),
    escape(
        "paths that climb out of its folder",
        """
for up in range(1, 12):
    attempt(lambda: open('../' * up + '@FOLDER@'.lstrip('/') + '/grades.json').read())
""",
        control=True,
    ),
    escape("a hard link to a file outside", "attempt(lambda: os.link('@FOLDER@/grades.json', 'linked'))"),
    escape(
        "the roots and folders of other processes",
        """
for number in ('1', '@PARENT@', str(os.getppid())):
    for name in ('root', 'cwd'):
        attempt(lambda: os.listdir(f'/proc/{number}/{name}/@FOLDER@'))
""",
    ),
    escape("its grade overwritten", "attempt(lambda: open('@FOLDER@/grades.json', 'r+'))"),
    escape(
        "files made outside its folder",
        """
for path in ('/x', '/etc/x', '/usr/x', '/dev/x', '/dev/shm/x', '/proc/x', '/root/x', '@FOLDER@/x'):
    attempt(lambda: open(path, 'x'))
""",
    ),
    escape(
        "the interpreter's library changed",
        """
attempt(lambda: open(os.__file__, 'r+'))
attempt(lambda: open(sys.executable, 'r+b'))
attempt(lambda: os.chmod(os.__file__, 0o777))
""",
    ),
    escape(
        "the list of processes",
        """
def others():
    found = [name for name in os.listdir('/proc') if name.isdigit()]
    if len(found) < 5: raise OSError('few')
    return found
attempt(others)
""",
        control=True,
    ),
    escape(
        "the environment and command line of its parents",
        """
def secrets():
    for number in ('self', '1', '2', '@PARENT@'):
        for name in ('environ', 'cmdline'):
            try: text = open(f'/proc/{number}/{name}').read()
            except OSError: continue
            if 'hunter2' in text or 'pytest' in text: return text
    raise OSError('nothing')
attempt(secrets)
attempt(lambda: os.environ['SECRET_TOKEN'])
""",
    ),
    escape(
        "the memory of other processes",
        """
for number in ('1', '2', '3', '@PARENT@'):
    if int(number) != os.getpid():
        attempt(lambda: open(f'/proc/{number}/mem', 'r+b'))
""",
    ),
    escape("a signal to the process that grades it", "attempt(lambda: os.kill(@PARENT@, 0))", control=True),
    escape(
        "signals to every process there is",
        """
def anyone():
    found = []
    for number in range(3, 5000):
        if number == os.getpid(): continue
        try: os.kill(number, 0)
        except OSError: continue
        found.append(number)
    if not found: raise OSError('nobody')
    return found
attempt(anyone)
""",
        control=True,
    ),
    escape(
        "its parent and its children under a debugger",
        """
# Nothing is attached to: a child asks to be traced, and the parent is compared with this process.
if os.fork() == 0:
    attempt(lambda: system((101, 117), 0, 0, 0, 0))
    sys.stdout.flush()
    os._exit(0)
os.wait()
attempt(lambda: system((312, 272), os.getpid(), @PARENT@, 1, 0, 0))
attempt(lambda: system((310, 270), os.getpid(), 0, 0, 0, 0, 0))
""",
        control=True,
    ),
    escape(
        "what it inherited, read and written",
        """
import stat
for name in os.listdir('/proc/self/fd'):
    try: kind = os.fstat(int(name)).st_mode
    except OSError: continue
    if stat.S_ISDIR(kind) or stat.S_ISSOCK(kind): print('ESCAPED', name)
    if int(name) > 2 and stat.S_ISFIFO(kind):
        os.write(int(name), b'{"child-pid": @PARENT@, "exit-code": 0}\\n999999999\\nbegun\\n')
print('held: wrote to what there was')
""",
    ),
    escape(
        "TCP to a service of the machine",
        """
attempt(lambda: socket.create_connection(('127.0.0.1', @PORT@), timeout=1))
attempt(lambda: socket.create_connection(('::1', @PORT@), timeout=1))
""",
        control=True,
    ),
    escape(
        "TCP to the world",
        """
for address in ('1.1.1.1', '8.8.8.8', '169.254.169.254'):
    attempt(lambda: socket.create_connection((address, 80), timeout=0.3))
""",
    ),
    escape(
        "UDP to a service of the machine",
        """
import time
def heard():
    there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    there.connect(('127.0.0.1', @PORT@))
    there.send(b'x')
    time.sleep(0.05)
    there.send(b'x')  # refused by now where nobody listens
attempt(heard)
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)))
""",
        control=True,
    ),
    escape("a name looked up", "attempt(lambda: socket.getaddrinfo('example.org', 80))"),
    escape(
        "a Unix socket by its path",
        """
attempt(lambda: socket.socket(socket.AF_UNIX).connect('@FOLDER@/socket'))
""",
        control=True,
    ),
    escape(
        "a Unix socket by an abstract name",
        """
attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0infra-attack-@PORT@'))
""",
        control=True,
    ),
    escape(
        "sockets that pass by network namespaces",
        """
for family in (40, 16, 17, 38, 15, 44):  # vsock, netlink, packet, alg, key, xdp
    attempt(lambda: socket.socket(family, socket.SOCK_RAW if family in (16, 17, 15) else socket.SOCK_STREAM))
""",
        control=True,
    ),
    escape("a raw socket", "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))"),
    escape(
        "other programs",
        """
import subprocess
for name in ('/bin/sh', '/usr/bin/env', '/usr/bin/curl', '/usr/bin/python3', '/usr/bin/sudo'):
    if name != sys.executable:
        attempt(lambda: subprocess.run([name, '--version'], capture_output=True))
""",
        control=True,
    ),
    escape(
        "a new interpreter without the limits",
        """
import resource, subprocess
code = 'import resource; print(resource.getrlimit(resource.RLIMIT_AS)[1])'
found = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True).stdout.strip()
print('held' if found == str(resource.getrlimit(resource.RLIMIT_AS)[1]) else 'ESCAPED', found)
""",
    ),
    escape(
        "the identity of root",
        """
attempt(lambda: os.setuid(0))
attempt(lambda: os.setgid(0))
attempt(lambda: os.setgroups([0]))
attempt(lambda: os.setresuid(0, 0, 0))
if 0 in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()): print('ESCAPED')
""",
    ),
    escape(
        "capabilities",
        """
for line in open('/proc/self/status'):
    if line.startswith(('CapPrm', 'CapEff', 'CapAmb')) and int(line.split()[1], 16): print('ESCAPED', line)
    if line.startswith('NoNewPrivs') and line.split()[1] != '1': print('ESCAPED', line)
print('held')
""",
    ),
    escape(
        "a user namespace inside its own",
        """
attempt(lambda: system((272, 97), 0x10000000))
attempt(lambda: system((56, 220), 0x10000000 | 17, 0, 0, 0, 0))
attempt(lambda: system((435, 435), 0, 0))
""",
    ),
    escape(
        "a file system mounted",
        """
attempt(lambda: system((165, 40), b'none', b'/tmp', b'tmpfs', 0, 0))
attempt(lambda: system((166, 39), b'/tmp', 2))
attempt(lambda: system((430, 430), b'tmpfs', 0))
attempt(lambda: os.chroot('/tmp'))
attempt(lambda: system((155, 41), b'/tmp', b'/tmp'))
""",
    ),
    escape(
        "another namespace entered",
        """
for name in ('mnt', 'net', 'pid', 'user'):
    attempt(lambda: system((308, 268), os.open(f'/proc/1/ns/{name}', 0), 0))
""",
    ),
    escape(
        "a file opened by its handle",
        """
room = ctypes.create_string_buffer(200)
attempt(lambda: system((303, 264), -100, b'/', room, ctypes.create_string_buffer(8), 0))
attempt(lambda: system((304, 265), 3, room, 0))
""",
    ),
    escape(
        "devices of the machine",
        """
for path in ('/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/kvm', '/dev/fuse', '/dev/tty'):
    attempt(lambda: os.open(path, os.O_RDONLY))
attempt(lambda: os.mknod('disk', 0o60600, os.makedev(8, 0)))
""",
        control=True,
    ),
    escape(
        "switches of the kernel",
        """
for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/vm/overcommit_memory'):
    attempt(lambda: os.open(path, os.O_WRONLY))
attempt(lambda: os.listdir('/sys/kernel'))
""",
        control=True,
    ),
    escape(
        "rare doors of the kernel",
        """
attempt(lambda: system((321, 280), 0, 0, 0))                       # bpf
attempt(lambda: system((298, 241), 0, 0, -1, -1, 0))               # perf_event_open
attempt(lambda: system((323, 282), 0))                             # userfaultfd
attempt(lambda: system((425, 425), 1, ctypes.create_string_buffer(200)))  # io_uring_setup
attempt(lambda: system((250, 219), 0, -3, 0))                      # keyctl
attempt(lambda: system((135, 92), 0xffffffff))                     # personality
attempt(lambda: system((103, 116), 10, 0, 0))                      # syslog
""",
    ),
    escape(
        "queues and semaphores of the kernel",
        """
attempt(lambda: system((68, 186), 0, 0o1600))
attempt(lambda: system((64, 190), 0, 1, 0o1600))
attempt(lambda: system((240, 180), b'x', 0o102, 0o600, 0))
""",
    ),
    escape(
        "the clock and the name of the machine",
        """
import time
attempt(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
attempt(lambda: socket.sethostname('sandbox'))
if os.uname().nodename != 'sandbox': print('ESCAPED', os.uname().nodename)
""",
    ),
    escape(
        "keys typed into the terminal",
        """
import fcntl
for descriptor in range(3):
    attempt(lambda: fcntl.ioctl(descriptor, 0x5412, b'x'))
""",
    ),
    Attack(
        "a child's signal storm",
        """
import os
if os.fork() == 0:
    for _ in range(20_000):
        try: os.kill(1, 0); os.kill(os.getppid(), 18)
        except OSError: pass
    os._exit(0)
os.wait()
""",
        ("ok", "timeout"),
    ),
]
