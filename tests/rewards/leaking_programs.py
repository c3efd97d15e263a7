"""Programs that leave something behind, each with one that looks for it: `LEAVE` writes down a number, `FIND` reads it.

Each of a pair is run in a process of its own, with `PRELUDE` before it; whatever is refused is passed over.
"""

from __future__ import annotations

PRELUDE = """
import ctypes, fcntl, mmap, os, resource, signal, socket, struct, sys, tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def lock(kind, place, size):
    return struct.pack("hhqqi4x", kind, 0, place, size, 0)
def tried(function, *arguments):
    try:
        return function(*arguments)
    except (OSError, AttributeError, ValueError) as error:
        return type(error).__name__
def call(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *arguments)
LIBRARY = os.__file__
"""

LEAKS: dict[str, tuple[str, str]] = {
    "locks of an open file, of error output": (
        "[tried(fcntl.fcntl, 2, 37, lock(fcntl.F_WRLCK, n, 1)) for n in (3, 5, 8)]",
        "f = open(os.devnull)\n"
        "print([tried(fcntl.fcntl, f, 36, lock(fcntl.F_RDLCK, n, 1)) != lock(fcntl.F_UNLCK, n, 1) for n in range(9)]\n"
        "      if isinstance(tried(fcntl.fcntl, f, 36, lock(fcntl.F_RDLCK, 0, 1)), bytes) else 'refused')",
    ),
    "locks of an open file, of input": (
        "tried(fcntl.fcntl, 0, 37, lock(fcntl.F_WRLCK, 7, 1))",
        "print(tried(fcntl.fcntl, 0, 36, lock(fcntl.F_RDLCK, 7, 1)))",
    ),
    "locks of a process": (
        "f = open(LIBRARY)\ntried(fcntl.lockf, f, fcntl.LOCK_SH)",
        "print(tried(fcntl.fcntl, open(LIBRARY), fcntl.F_GETLK, lock(fcntl.F_WRLCK, 0, 0)))",
    ),
    "a lock of error output": ("tried(fcntl.flock, 2, fcntl.LOCK_EX)", "print(tried(fcntl.flock, 2, 6))"),
    "a lock of a library": (
        "tried(fcntl.flock, open(LIBRARY), fcntl.LOCK_EX)",
        "print(tried(fcntl.flock, open(LIBRARY), fcntl.LOCK_EX | fcntl.LOCK_NB))",
    ),
    "a lock of the folder": (
        "tried(fcntl.flock, os.open('.', os.O_RDONLY), fcntl.LOCK_EX)",
        "print(tried(fcntl.flock, os.open('.', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB))",
    ),
    "a lease": (
        "tried(fcntl.fcntl, os.open(LIBRARY, os.O_RDONLY), 1024, fcntl.F_RDLCK)",
        "print(tried(fcntl.fcntl, os.open(LIBRARY, os.O_RDONLY), 1025))",
    ),
    "how long a file is said to live": (
        "f = open(LIBRARY)\ntried(fcntl.fcntl, f, 1036, struct.pack('Q', 4))",
        "print(tried(fcntl.fcntl, open(LIBRARY), 1035, bytes(8)))",
    ),
    "notices of changes": ("tried(fcntl.fcntl, os.open('.', 0), 1026, 1)", "print(tried(fcntl.fcntl, 2, 1026, 0))"),
    "flags of error output": (
        "tried(fcntl.fcntl, 2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_APPEND | os.O_NONBLOCK)",
        "print(fcntl.fcntl(2, fcntl.F_GETFL))",
    ),
    "flags of input and output": (
        "[tried(fcntl.fcntl, n, fcntl.F_SETFL, fcntl.fcntl(n, fcntl.F_GETFL) | os.O_NONBLOCK) for n in (0, 1)]",
        "print([fcntl.fcntl(n, fcntl.F_GETFL) for n in (0, 1)])",
    ),
    "owner of a file's signals": ("tried(fcntl.fcntl, 2, fcntl.F_SETOWN, 1)", "print(tried(fcntl.fcntl, 2, 9))"),
    "signal of a file": ("tried(fcntl.fcntl, 2, 10, 12)", "print(tried(fcntl.fcntl, 2, 11))"),
    "place in error output": ("tried(os.lseek, 2, 77, 0)", "print(tried(os.lseek, 2, 0, 1))"),
    "place in input": ("os.lseek(0, 3, 0)", "print(os.lseek(0, 0, 1))"),
    "size of input": ("tried(os.ftruncate, 0, 4096)\ntried(os.write, 0, b'left')", "print(os.fstat(0).st_size)"),
    "size of a pipe": ("tried(fcntl.fcntl, 1, 1031, 4096)", "print(fcntl.fcntl(1, 1032))"),
    "seals": ("tried(fcntl.fcntl, 0, 1033, 1)", "print(tried(fcntl.fcntl, 0, 1034))"),
    "open files": (
        "[tried(os.open, os.devnull, os.O_RDONLY) for _ in range(20)]",
        "print([n for n in range(64) if isinstance(tried(os.fstat, n), os.stat_result)])",
    ),
    "a file in the folder": ("tried(open, 'left', 'w')", "print(os.listdir('.'))"),
    "a file for all": (
        "[tried(open, f'{place}/aspo-left', 'w') for place in ('/tmp', '/dev/shm', '/var/tmp', '/')]",
        "print([os.path.exists(f'{place}/aspo-left') for place in ('/tmp', '/dev/shm', '/var/tmp', '/')])",
    ),
    "a file without a name": (
        "tried(os.open, '/tmp', os.O_TMPFILE | os.O_RDWR)",
        "print(tried(os.open, '/dev/shm', os.O_TMPFILE | os.O_RDWR))",
    ),
    "times of a library": (
        "tried(os.utime, LIBRARY, (1, 1))\ntried(os.utime, os.open(LIBRARY, os.O_RDONLY))",
        "print(os.stat(LIBRARY).st_mtime_ns)",
    ),
    "times of a device": (
        "tried(os.utime, os.devnull, (1, 1))\ntried(os.utime, os.devnull)\ntried(os.utime, 2)",
        "print(os.stat(os.devnull).st_mtime_ns, os.fstat(2).st_mtime_ns)",
    ),
    "times of the folders": (
        "[tried(os.utime, place, (1, 1)) for place in ('/', '/dev', os.path.dirname(LIBRARY))]",
        "print([os.stat(place).st_mtime_ns == 10**9 for place in ('/', '/dev', os.path.dirname(LIBRARY))])",
    ),
    "rights of a device": (
        "tried(os.chmod, os.devnull, 0o600)\ntried(os.fchmod, 2, 0o600)",
        "print(os.fstat(2).st_mode)",
    ),
    "attributes of a file": (
        "tried(os.setxattr, LIBRARY, 'user.left', b'1')\ntried(os.setxattr, 0, 'user.left', b'1')",
        "print(tried(os.getxattr, LIBRARY, 'user.left'), tried(os.getxattr, 0, 'user.left'))",
    ),
    "shared memory": ("call(29, 4711, 4096, 0o1666)", "print(call(29, 4711, 4096, 0))"),
    "semaphores": ("call(64, 4711, 1, 0o1666)", "print(call(64, 4711, 1, 0))"),
    "messages": ("call(68, 4711, 0o1666)", "print(call(68, 4711, 0))"),
    "messages with a name": ("call(240, b'left', 0o102, 0o666, None)", "print(call(240, b'left', 0, 0, None))"),
    "a file in memory": ("call(319, b'left', 0)", "print(call(319, b'left', 0))"),
    "a key": (
        "call(248, b'user', b'left', b'1', ctypes.c_size_t(1), -5)",
        "print(call(249, b'user', b'left', None, -5), call(250, 11, -5, None, 0))",
    ),
    "a socket with a name": (
        "tried(lambda: socket.socket(socket.AF_UNIX).bind('\\0aspo-left'))",
        "print(tried(lambda: socket.socket(socket.AF_UNIX).connect('\\0aspo-left')))",
    ),
    "niceness": ("tried(os.nice, 5)\ntried(os.setpriority, 1, 0, 9)", "print(tried(os.getpriority, 0, 0))"),
    "its name": ("libc.prctl(15, b'left', 0, 0, 0)", "print(tried(open, '/proc/self/comm'))"),
    "a limit": (
        "tried(resource.setrlimit, resource.RLIMIT_NOFILE, (20, 20))",
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))",
    ),
    "processors": ("tried(os.sched_setaffinity, 0, {0})", "print(sorted(os.sched_getaffinity(0)))"),
    "the working folder": ("tried(os.chdir, '/')", "print(os.listdir('.'))"),
    "the mask of new files": ("os.umask(0o777)", "print(os.umask(0o22))"),
    "signals": ("signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "print(signal.getsignal(signal.SIGUSR2))"),
    "blocked signals": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})",
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))",
    ),
    "a timer": ("signal.setitimer(signal.ITIMER_REAL, 1000)", "print(signal.getitimer(signal.ITIMER_REAL))"),
    "environment": (
        "os.environ['LEFT'] = '1'\nos.putenv('LEFT', '1')",
        "print(os.environ.get('LEFT'), libc.getenv(b'LEFT'))",
    ),
    "the interpreter": (
        "import json\njson.left = sys.left = True",
        "import json\nprint(hasattr(json, 'left'), hasattr(sys, 'left'))",
    ),
    "memory of a library": (
        "tried(lambda: mmap.mmap(os.open(LIBRARY, os.O_RDONLY), 4096, mmap.MAP_SHARED).write(b'left'))",
        "print(open(LIBRARY, 'rb').read(4) == b'left')",
    ),
    "memory of a device": (
        "tried(lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 4096).write(b'left'))",
        "print(tried(lambda: mmap.mmap(os.open('/dev/zero', os.O_RDONLY), 4096, mmap.MAP_SHARED, mmap.PROT_READ)[:4]))",
    ),
    "what of a file is in memory": (
        "f = os.open(LIBRARY, os.O_RDONLY)\ntried(os.posix_fadvise, f, 0, 0, os.POSIX_FADV_DONTNEED)",
        "print(tried(os.posix_fadvise, os.open(LIBRARY, os.O_RDONLY), 0, 0, 4), call(27, 0, 4096, None))",
    ),
}
"""By what it is left in."""

NUMBERS = (
    "for _ in range(37):\n    thread = threading.Thread(target=int)\n    thread.start()\n    thread.join()",
    "def tell():\n    print(os.getpid(), os.getppid(), threading.get_native_id())\n"
    "thread = threading.Thread(target=tell)\nthread.start()\nthread.join()",
)
"""The numbers of processes and threads tell how many there were, unless each program's begin anew."""

THREADS: dict[str, str] = {
    "threading": "start = lambda: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "lower": "import _thread\nstart = lambda: _thread.start_new_thread(time.sleep, (9,))",
    "timers": "def start():\n    timer = threading.Timer(9, int)\n    timer.daemon = True\n    timer.start()",
    "pthread": (
        "def start():\n    attributes = ctypes.create_string_buffer(64)\n    libc.pthread_attr_init(attributes)\n"
        "    libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(65536))\n"
        "    wrong = libc.pthread_create(ctypes.byref(ctypes.c_ulong()), attributes, libc.pause, None)\n"
        "    if wrong:\n        raise OSError(wrong, 'refused')"
    ),
    "clone": (
        "flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000\nkept = []\ndef start():\n"
        "    stack = ctypes.create_string_buffer(16384)\n    kept.append(stack)\n"
        "    top = ctypes.c_void_p((ctypes.addressof(stack) + 16384) & -16)\n"
        "    if libc.clone(libc.pause, top, flags, None) < 0:\n        raise OSError(ctypes.get_errno(), 'refused')"
    ),
    "in turns": (
        "def start():\n    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "    for _ in range(3):\n        thread = threading.Thread(target=int)\n        thread.start()\n"
        "        thread.join()"
    ),
    "a pool": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2000)\n"
        "start = lambda: pool.submit(time.sleep, 9)"
    ),
    "pools": (
        "from concurrent.futures import ThreadPoolExecutor\nkept = []\n"
        "def start():\n    kept.append(ThreadPoolExecutor(1))\n    kept[-1].submit(time.sleep, 9)"
    ),
    "each by the one before": (
        "def start():\n    said = []\n    def first():\n        try:\n            start_one()\n"
        "        except RuntimeError:\n            said.append(1)\n    def start_one():\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "    thread = threading.Thread(target=first)\n    thread.start()\n    thread.join()\n"
        "    if said:\n        raise RuntimeError"
    ),
    "a class of its own": (
        "class Own(threading.Thread):\n    def run(self):\n        time.sleep(9)\n"
        "start = lambda: Own(daemon=True).start()"
    ),
}
"""Ways of starting a thread that stays: `start`."""

COUNT = """
threading.stack_size(65536)
started = 0
try:
    while started < 1000:
        start()
        started += 1
except (OSError, RuntimeError):
    pass
print(started, flush=True)
os._exit(0)
"""

AT_ONCE = """
threading.stack_size(65536)
gate = threading.Barrier(8)
count = []
def many():
    gate.wait()
    while True:
        try:
            threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
            count.append(1)
        except RuntimeError:
            break
threads = [threading.Thread(target=many) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(count), flush=True)
os._exit(0)
"""
