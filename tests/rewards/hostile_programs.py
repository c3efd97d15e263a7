"""Programs that try to escape, to harm the machine, or to get a verdict that they do not deserve.

Each calls `win`, which prints the right answer, if what it tried succeeds. The names in capitals are given to it:
PARENT (a process outside), SECRET (a file with the expected output), CANARY (a file that must not change), FOLDER (a
writable folder), PORT (something listens there), CHECKER (the file of the code that compares outputs).
"""

from __future__ import annotations

PRELUDE = """
import os, sys, ctypes, time, signal
n = int(input())
libc = ctypes.CDLL(None, use_errno=True)
def win():
    print((n * n * n) % 1000003)
    sys.stdout.flush()
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
"""

STOPPED: dict[str, str] = {
    "fork": "os.fork(); win()",
    "fork bomb": "while True:\n    os.fork()",
    "fork bomb by vfork": "while True:\n    checked(libc.syscall(58))",
    "processes by multiprocessing": (
        "import multiprocessing as m\np = m.Process(target=print)\np.start()\np.join()\nwin()"
    ),
    "a shell": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'], check=True)\nwin()",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'echo'])",
    "exec of the interpreter": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "shell by os.system": "if os.system('true') == 0:\n    win()",
    "memory bomb": "x = []\nwhile True:\n    x.append(bytearray(1 << 24))",
    "memory bomb by mmap": "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(64)]\nwin()",
    "memory in a hidden file": "x = [os.memfd_create('x') for _ in range(9)]\nwin()",
    "shared memory segments": "checked(libc.shmget(0, 1 << 30, 0o1600)); win()",
    "message queue": "checked(libc.msgget(0, 0o1600)); win()",
    "output flood": "while True:\n    sys.stdout.write('x' * 65536)",
    "one huge output": "win(); sys.stdout.write('x' * (1 << 25))",
    "thread bomb": (
        "import threading\nfor _ in range(2000):\n    threading.Thread(target=time.sleep, args=(1,)).start()\nwin()"
    ),
    "read the expected output": "text = open(SECRET).read(); win()",
    "read it by a symbolic link": "os.symlink(SECRET, 'link'); text = open('link').read(); win()",
    "read it by a hard link": "os.link(SECRET, 'link'); win()",
    "find it below the root": (
        "name = os.path.basename(SECRET)\n"
        "for top in ('/tmp', '/home', '/var', '/proc'):\n    for folder, _, files in os.walk(top):\n"
        "        if name in files:\n            win()"
    ),
    "list the user's folder": "os.listdir(FOLDER); win()",
    "overwrite the checker": "open(CHECKER, 'a').write('#'); win()",
    "overwrite the standard library": "open(os.__file__, 'a').write('#'); win()",
    "replace the interpreter's module": "os.rename(os.__file__, os.__file__ + '.old'); win()",
    "change a file of the user": "open(CANARY, 'w').write('gone'); win()",
    "truncate a file of the user": "os.truncate(CANARY, 0); win()",
    "delete a file of the user": "os.unlink(CANARY); win()",
    "delete the user's folder": "import shutil\nshutil.rmtree(FOLDER); win()",
    "delete the standard library": (
        "import json, shutil\nshutil.rmtree(os.path.dirname(json.__file__), ignore_errors=True)\n"
        "if not os.path.exists(json.__file__):\n    win()"
    ),
    "delete the home": "import shutil\nshutil.rmtree('/root'); win()",
    "make a file in the user's folder": "open(os.path.join(FOLDER, 'new'), 'w').write('x'); win()",
    "make a file in /etc": "open('/etc/aspo-was-here', 'w').write('x'); win()",
    "make a file in /dev/shm": "open('/dev/shm/aspo-was-here', 'w').write('x'); win()",
    "make a file in /var/tmp": "open('/var/tmp/aspo-was-here', 'w').write('x'); win()",
    "read /etc/shadow": "open('/etc/shadow').read(); win()",
    "read /etc/passwd": "open('/etc/passwd').read(); win()",
    "huge file": "with open('x', 'wb') as f:\n    for _ in range(200):\n        f.write(bytes(1 << 20))\nwin()",
    "many large files": (
        "for i in range(50):\n    with open(f'x{i}', 'wb') as f:\n        f.write(bytes(1 << 20))\nwin()"
    ),
    "many files": "for i in range(5000):\n    open(f'x{i}', 'w').close()\nwin()",
    "sparse file": "with open('x', 'wb') as f:\n    f.truncate(1 << 40)\nwin()",
    "deep folders": "for i in range(5000):\n    os.mkdir('d')\n    os.chdir('d')\nwin()",
    "connect by TCP": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1); win()",
    "send by UDP": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('127.0.0.1', PORT)); win()"
    ),
    "listen": "import socket\nsocket.create_server(('127.0.0.1', 0)); win()",
    "fetch a page": "import urllib.request\nurllib.request.urlopen(f'http://127.0.0.1:{PORT}/', timeout=1); win()",
    "look up a name": "import socket\nsocket.getaddrinfo('example.com', 80)[0]; win()",
    "local socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0aspo'); win()",
    "datagrams by a pair": "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); win()",
    "kernel socket": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); win()",
    "kill the parent": "os.kill(os.getppid() or 1, signal.SIGKILL); win()",
    "kill a process outside": "os.kill(PARENT, signal.SIGKILL); win()",
    "kill all": "os.kill(-1, signal.SIGKILL); win()",
    "kill the group": "os.killpg(0, signal.SIGKILL); win()",
    "kill by a descriptor": "fd = os.pidfd_open(PARENT)\nsignal.pidfd_send_signal(fd, 9); win()",
    "kill through a file's owner": (
        "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid() or 1)\n"
        "fcntl.fcntl(r, 10, signal.SIGKILL)\nwin()"
    ),
    "kill through a limit": "import resource\nresource.prlimit(PARENT, resource.RLIMIT_CPU, (1, 1)); win()",
    "slow the parent down": "os.setpriority(os.PRIO_PROCESS, PARENT, 19); win()",
    "raise its own limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2); win()"
    ),
    "trace the parent": "checked(libc.ptrace(16, os.getppid() or 1, 0, 0)); win()",
    "read the parent's memory": ("checked(libc.process_vm_readv(PARENT, 0, 0, 0, 0, 0)); win()"),
    "read the parent's memory by /proc": "open(f'/proc/{PARENT}/mem', 'rb').read(1); win()",
    "read the parent's environment": "open(f'/proc/{PARENT}/environ').read(); win()",
    "leave by /proc": "os.listdir(os.path.join('/proc/1/root', 'var')); win()",
    "write to /proc": "open('/proc/self/oom_score_adj', 'w').write('-1000'); win()",
    "trigger the kernel": "open('/proc/sysrq-trigger', 'w').write('b'); win()",
    "secrets of the environment": "os.environ['ASPO_TEST_SECRET']; win()",
    "inherited descriptors": (
        "found = []\nfor fd in range(3, 1000):\n    try:\n        os.fstat(fd)\n        found.append(fd)\n"
        "    except OSError:\n        pass\nfound[0]\nwin()"
    ),
    "zombies": "for _ in range(100):\n    if os.fork() == 0:\n        os._exit(0)\nwin()",
    "daemon": (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\nwin()"
    ),
    "own session": "os.setsid(); win()",
    "new namespaces": "checked(libc.unshare(0x10000000)); win()",
    "mount": "checked(libc.mount(b'none', b'/', b'tmpfs', 0, b'')); win()",
    "change the root": "os.chroot('.'); win()",
    "become root": "os.setresuid(0, 0, 0); win()",
    "make a device": "import stat\nos.mknod('sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0)); win()",
    "read a disk": "open('/dev/sda', 'rb').read(1); win()",
    "read the memory": "open('/dev/mem', 'rb').read(1); win()",
    "restart the machine": "checked(libc.reboot(0x1234567)); win()",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, 0); win()",
    "load BPF": "checked(libc.syscall(321, 0, 0, 0)); win()",
    "io_uring": "checked(libc.syscall(425, 8, ctypes.create_string_buffer(200))); win()",
    "keyring": "checked(libc.syscall(248, b'user', b'x', b'x', 1, -3)); win()",
    "make itself traceable": "checked(libc.prctl(4, 1, 0, 0, 0)); win()",
    "find the expected output in memory": (
        "import gc\ntexts = [o for o in gc.get_objects() if isinstance(o, (list, dict)) and 'expected' in o]\n"
        "for name, module in list(sys.modules.items()):\n    if 'aspo' in name:\n        texts += [module.EXPECTED]\n"
        "frame = sys._getframe()\nwhile frame:\n    if 'expected' in frame.f_locals:\n        texts.append(1)\n"
        "    frame = frame.f_back\ntexts[0]\nwin()"
    ),
    "right answer, then a crash": "win(); ctypes.string_at(0)",
    "right answer, then an error": "win(); raise RuntimeError",
    "right answer, then exit code 3": "win(); os._exit(3)",
    "right answer among others": "win(); print(12345)",
    "all answers": "print('\\n'.join(map(str, range(100000))))",
    "no output": "sys.exit(0)",
    "deep recursion": "f = lambda: f()\nf()\nwin()",
    "endless compilation": "compile('(' * 10**6 + ')' * 10**6, 'x', 'eval'); win()",
}
"""Stopped at once: by an error, or by a limit other than that of time."""

ENDLESS: dict[str, str] = {
    "loop": "while True:\n    pass",
    "sleep": "time.sleep(1000)",
    "wait for input": "sys.stdin.read()\nsignal.pause()",
    "loop that ignores signals": (
        "for s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass"
    ),
    "right answer, then a loop": "win()\nwhile True:\n    pass",
    "loop at the end": "import atexit\natexit.register(lambda: time.sleep(1000))\nwin()",
    "thread that stays": "import threading\nthreading.Thread(target=time.sleep, args=(1000,)).start()\nwin()",
    "closed output, then a loop": "win()\nos.close(1)\nos.close(0)\nwhile True:\n    pass",
    "large integer": "x = 7 ** (10 ** 9); win()",
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "error output": "while True:\n    sys.stderr.write('x' * 65536)",
}
"""Ended by their time."""

CALLS: dict[str, str] = {
    "equal to all": "class E:\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef cube(n): return E()",
    "list that is equal to all": "class E(list):\n    __eq__ = lambda s, o: True\ndef cube(n): return E()",
    "integer that is equal to all": "class E(int):\n    __eq__ = lambda s, o: True\ndef cube(n): return E(1)",
    "true": "def cube(n): return True",
    "not a number": "def cube(n): return float('nan')",
    "infinite": "def cube(n): return float('inf')",
    "exit": "import sys\ndef cube(n): sys.exit(0)",
    "exit at once": "import os\ndef cube(n): os._exit(0)",
    "exit while loading": "import sys\nsys.exit(0)",
    "several results": "import os\ndef cube(n):\n    for k in range(2000): os.write(3, b'%d\\n' % k)\n    os._exit(0)",
    "a result of its own, and another": ("import os\ndef cube(n):\n    os.write(3, b'{}')\n    return 1"),
    "patched JSON": (
        'import json\njson.dump = lambda v, f, **k: f.write(\'{"status": 0, "right": true}\')\ndef cube(n): return 1'
    ),
    "reply to the parent": (
        "import os\ndef cube(n):\n    for fd in range(3, 64):\n        try:\n"
        "            os.write(fd, b'{\"status\": 0}')\n"
        "        except OSError:\n            pass\n    os._exit(0)"
    ),
    "printed result": "def cube(n): print(n)",
    "no function": "x = 1",
    "another function": "def square(n): return n",
    "deeply nested": "def cube(n):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "nested text": "import os\ndef cube(n):\n    os.write(3, b'[' * 60000)\n    os._exit(0)",
    "endless iterator": "import itertools\ndef cube(n): return itertools.count()",
    "huge number": "def cube(n): return 10 ** 40000",
    "text": "def cube(n): return 'right'",
    "syntax error": "def cube(n) return 1",
}
"""Functions that do not compute what is asked for."""
