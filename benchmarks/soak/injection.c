/* Loaded before the C library (LD_PRELOAD): counts the calls that change files under one folder, and has chosen ones fail.
 *
 * A call counts if its path, or that of its descriptor, lies under the folder. From the n-th on, those that the fault can
 * befall fail, so many times or until a file appears. Control: aspo_faults_* from the process itself (ctypes), or the
 * environment, for processes that are started:
 *
 *   ASPO_FAULTS_FOLDER  the folder, without symbolic links
 *   ASPO_FAULTS_LOG     every counted call becomes a line here: process, rank, number, call, errno it was given, path
 *   ASPO_FAULTS_FULL    while this file exists, the disk under the folder is full
 *   ASPO_FAULTS_ARM     RANK:N:KIND:TIMES, for the process whose RANK that is (none: `launcher`)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, FULL, QUOTA, BROKEN, READ_ONLY, STALE, SHORT, KILL, KILL_AFTER, TORN, KILL_PARENT, KINDS };
static const char *const kind_names[KINDS] = {
    "none", "full", "quota", "broken", "read-only", "stale", "short", "kill", "kill-after", "torn", "kill-parent"};

enum { ROOM = 1, CONTENT = 2, NAME = 4, FLUSH = 8, CLOSE = 16 };
/* What a call is: ROOM if it may want more of the disk; CONTENT or NAME of a file is changed; FLUSH; CLOSE. */

static char folder[PATH_MAX], full_file[PATH_MAX], room_file[PATH_MAX], rank_name[32] = "launcher";
static atomic_int log_descriptor = -1;
static atomic_long count, from, left, failed;
static atomic_int kind;

static int exists(const char *path) { return path[0] && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0; }

static int under(const char *path) {
    size_t length = strlen(folder);
    return length && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Where a descriptor (or the current folder) points to; 0 if that is not under the folder. */
static int path_of(int descriptor, char *path) {
    char link[64];
    if (descriptor == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static int absolute(int at, const char *name, char *path) {
    if (!name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return 1;
    }
    if (!path_of(at, path)) return 0;
    size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
    return 1;
}

static int befalls(int what, int error) {
    switch (error) {
    case ENOSPC:
    case EDQUOT: return what & ROOM;
    case EROFS: return !(what & (FLUSH | CLOSE));
    default: return 1;
    }
}

static int errno_of(int which) {
    switch (which) {
    case FULL:
    case SHORT: return ENOSPC;
    case QUOTA: return EDQUOT;
    case BROKEN: return EIO;
    case READ_ONLY: return EROFS;
    case STALE: return ESTALE;
    default: return 0;
    }
}

static void note(long number, const char *call, int given, const char *path) {
    int descriptor = log_descriptor;
    if (descriptor < 0) return;
    char line[PATH_MAX + 128];
    int length = snprintf(line, sizeof line, "%d %s %ld %s %d %s\n", (int)getpid(), rank_name, number, call, given, path);
    syscall(SYS_write, descriptor, line, (size_t)length);
}

/* Take one of the failures that are left; 0 if there is none. */
static int take(void) {
    if (room_file[0]) return !exists(room_file);
    long have = left;
    while (have > 0)
        if (atomic_compare_exchange_weak(&left, &have, have - 1)) return 1;
    return have < 0; /* for good */
}

/* Count the call at `path`; the fault that it meets. */
static enum kind meets(const char *call, const char *path, int what) {
    if (!under(path)) return NONE;
    long number = ++count;
    enum kind met = NONE;
    if (exists(full_file)) met = befalls(what, ENOSPC) ? FULL : NONE;
    else if (kind != NONE && number >= from) {
        int wanted = kind, error = errno_of(wanted);
        if ((!error || befalls(what, error)) && take()) met = wanted;
    }
    note(number, call, errno_of(met), path);
    if (met != NONE) failed++;
    if (met == KILL || (met == TORN && !(what & CONTENT))) syscall(SYS_kill, getpid(), SIGKILL);
    if (met == KILL_PARENT) {
        syscall(SYS_kill, getppid(), SIGKILL);
        met = NONE;
    }
    return met;
}

static enum kind meets_descriptor(const char *call, int descriptor, int what) {
    char path[PATH_MAX];
    if (!folder[0] || descriptor < 0 || !path_of(descriptor, path)) return NONE;
    return meets(call, path, what);
}

static enum kind meets_name(const char *call, int at, const char *name, int what) {
    char path[PATH_MAX];
    if (!folder[0] || !absolute(at, name, path)) return NONE;
    return meets(call, path, what);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* The call itself: not made if the fault is an error, followed by the end of the process if it is KILL_AFTER. */
#define THROUGH(met, call) \
    do { \
        if (errno_of(met)) { \
            errno = errno_of(met); \
            return -1; \
        } \
        __typeof__(call) result = (call); \
        if ((met) == KILL_AFTER || (met) == TORN) syscall(SYS_kill, getpid(), SIGKILL); \
        return result; \
    } while (0)

/* A write of `size` bytes: a short one puts down half, and what comes after fails for want of room. */
static size_t part(enum kind *met, size_t size) {
    if (*met == SHORT) {
        kind = FULL;
        if (left == 0) left = 1;
        if (size > 1) *met = NONE;
        return size / 2;
    }
    return *met == TORN ? size / 2 : size;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    enum kind met = meets_descriptor("write", descriptor, ROOM | CONTENT);
    size = part(&met, size);
    THROUGH(met, real(descriptor, data, size));
}

#define PWRITE(name) \
    ssize_t name(int descriptor, const void *data, size_t size, off_t at) { \
        REAL(name); \
        enum kind met = meets_descriptor("pwrite", descriptor, ROOM | CONTENT); \
        size = part(&met, size); \
        THROUGH(met, real(descriptor, data, size, at)); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    REAL(writev);
    enum kind met = meets_descriptor("writev", descriptor, ROOM | CONTENT);
    if (met == SHORT || met == TORN) {
        struct iovec first = parts[0];
        first.iov_len = part(&met, first.iov_len);
        THROUGH(met, real(descriptor, &first, 1));
    }
    THROUGH(met, real(descriptor, parts, number));
}

#define SENDFILE(name) \
    ssize_t name(int to, int source, off_t *at, size_t size) { \
        REAL(name); \
        enum kind met = meets_descriptor("sendfile", to, ROOM | CONTENT); \
        if (met == SHORT || met == TORN) size = size > 512 ? 512 : size; \
        size = part(&met, size); \
        THROUGH(met, real(to, source, at, size)); \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)
ssize_t sendfile(int, int, off_t *, size_t);

ssize_t copy_file_range(int source, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    REAL(copy_file_range);
    enum kind met = meets_descriptor("copy_file_range", to, ROOM | CONTENT);
    if (met == SHORT || met == TORN) size = size > 512 ? 512 : size;
    size = part(&met, size);
    THROUGH(met, real(source, at, to, there, size, flags));
}

#define TRUNCATE(name) \
    int name(int descriptor, off_t size) { \
        REAL(name); \
        enum kind met = meets_descriptor("ftruncate", descriptor, CONTENT); \
        THROUGH(met, real(descriptor, size)); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define FLUSHES(name) \
    int name(int descriptor) { \
        REAL(name); \
        enum kind met = meets_descriptor(#name, descriptor, FLUSH | ROOM); \
        THROUGH(met, real(descriptor)); \
    }
FLUSHES(fsync)
FLUSHES(fdatasync)

/* Of files that were opened to be written; the descriptor is gone in any case. */
int close(int descriptor) {
    REAL(close);
    enum kind met = NONE;
    if (folder[0] && descriptor >= 0) {
        int flags = (int)syscall(SYS_fcntl, descriptor, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY) met = meets_descriptor("close", descriptor, CLOSE);
    }
    int result = real(descriptor);
    if (met == KILL_AFTER) syscall(SYS_kill, getpid(), SIGKILL);
    if (!errno_of(met)) return result;
    errno = errno_of(met);
    return -1;
}

/* Opening counts if it may make or change a file; it wants room if there is none of that name. */
static enum kind meets_open(int at, const char *name, int flags) {
    if (!(flags & (O_CREAT | O_TRUNC)) && (flags & O_ACCMODE) == O_RDONLY) return NONE;
    int makes = (flags & O_CREAT) && name && syscall(SYS_faccessat, at, name, F_OK) != 0;
    return meets_name(makes ? "create" : "open", at, name, (makes ? ROOM | NAME : 0) | CONTENT * !!(flags & O_TRUNC));
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        MODE(flags) \
        enum kind met = meets_open(AT_FDCWD, path, flags); \
        THROUGH(met, real(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(name); \
        MODE(flags) \
        enum kind met = meets_open(at, path, flags); \
        THROUGH(met, real(at, path, flags, mode)); \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

#define STREAM(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(name); \
        int flags = how[0] == 'r' ? (strchr(how, '+') ? O_RDWR : O_RDONLY) : O_WRONLY | O_CREAT; \
        enum kind met = meets_open(AT_FDCWD, path, flags | (how[0] == 'w' ? O_TRUNC : 0)); \
        if (errno_of(met)) { \
            errno = errno_of(met); \
            return NULL; \
        } \
        FILE *stream = real(path, how); \
        if (met == KILL_AFTER) syscall(SYS_kill, getpid(), SIGKILL); \
        return stream; \
    }
STREAM(fopen)
STREAM(fopen64)

#define NAMED(name, what, kept, ...) \
    int name kept { \
        REAL(name); \
        enum kind met = meets_name(#name, __VA_ARGS__, what); \
        THROUGH(met, real PASS_##name); \
    }
#define PASS_mkdir (path, mode)
#define PASS_mkdirat (at, path, mode)
#define PASS_rename (old, path)
#define PASS_renameat (old_at, old, at, path)
#define PASS_unlink (path)
#define PASS_unlinkat (at, path, flags)
#define PASS_rmdir (path)
#define PASS_symlink (target, path)
#define PASS_link (old, path)
NAMED(mkdir, ROOM | NAME, (const char *path, mode_t mode), AT_FDCWD, path)
NAMED(mkdirat, ROOM | NAME, (int at, const char *path, mode_t mode), at, path)
NAMED(rename, ROOM | NAME, (const char *old, const char *path), AT_FDCWD, path)
NAMED(renameat, ROOM | NAME, (int old_at, const char *old, int at, const char *path), at, path)
NAMED(unlink, NAME, (const char *path), AT_FDCWD, path)
NAMED(unlinkat, NAME, (int at, const char *path, int flags), at, path)
NAMED(rmdir, NAME, (const char *path), AT_FDCWD, path)
NAMED(symlink, ROOM | NAME, (const char *target, const char *path), AT_FDCWD, path)
NAMED(link, ROOM | NAME, (const char *old, const char *path), AT_FDCWD, path)

/* ---- control ---- */

int aspo_faults_kind(const char *name) {
    for (int number = 0; number < KINDS; number++)
        if (strcmp(kind_names[number], name) == 0) return number;
    return -1;
}

/* Count under `path` from now on. */
void aspo_faults_watch(const char *path) {
    snprintf(folder, sizeof folder, "%s", path);
    count = 0;
}

/* From the `number`-th call on, counted from now, `times` calls meet the fault; -1: all. Or all until `room` exists. */
void aspo_faults_arm(long number, int which, long times, const char *room) {
    kind = NONE;
    snprintf(room_file, sizeof room_file, "%s", room ? room : "");
    count = 0;
    failed = 0;
    from = number;
    left = times;
    kind = which;
}

long aspo_faults_count(void) { return count; }
long aspo_faults_failed(void) { return failed; }

/* What this process is called in the log: a rank that was forked is not told by its environment. */
void aspo_faults_name(const char *name) { snprintf(rank_name, sizeof rank_name, "%s", name); }

void aspo_faults_log(const char *path) {
    int before = log_descriptor;
    log_descriptor = path && path[0] ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (before >= 0) syscall(SYS_close, before);
}

__attribute__((constructor)) static void begin(void) {
    const char *rank = getenv("RANK"), *path = getenv("ASPO_FAULTS_FOLDER"), *full = getenv("ASPO_FAULTS_FULL");
    const char *armed = getenv("ASPO_FAULTS_ARM"), *log = getenv("ASPO_FAULTS_LOG");
    if (rank) snprintf(rank_name, sizeof rank_name, "%s", rank);
    if (full) snprintf(full_file, sizeof full_file, "%s", full);
    if (log) aspo_faults_log(log);
    if (path) aspo_faults_watch(path);
    char who[32], what[32];
    long number, times;
    if (armed && sscanf(armed, "%31[^:]:%ld:%31[^:]:%ld", who, &number, what, &times) == 4 && strcmp(who, rank_name) == 0)
        aspo_faults_arm(number, aspo_faults_kind(what), times, NULL);
}
