/* Preloaded into a program: file calls under one folder fail when told to, and leave a trace.
 *
 * The program itself gives the orders, through the functions at the end (file_faults.py). The calls that change what is on
 * the disk are counted; from the k-th on, `times` of them fail with an errno, or write only half of what they should. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, LINK = 8, OPEN = 16, UNLINK = 32, MKDIR = 64, TRUNCATE = 128, RMDIR = 256, MARK = 512 };
enum { SHORT_WRITE = -1 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char prefix[PATH_MAX];
static size_t prefix_length;
static int armed_calls, armed_error, trace = -1;
static long armed_from, armed_times, seen, fired, quota = -1;

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int watched(const char *path) {
    return prefix_length && strncmp(path, prefix, prefix_length) == 0 && (!path[prefix_length] || path[prefix_length] == '/');
}

/* The path of a call, absolute; 0 if it is none of ours. */
static int path_at(int folder, const char *path, char *full) {
    if (!prefix_length || !path) return 0;
    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        if (snprintf(full, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return watched(full);
}

static int path_of(int file, char *full) {
    if (!prefix_length) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, full, PATH_MAX - 1);
    if (length < 0) return 0;
    full[length] = 0;
    return watched(full);
}

/* 0: go on; an errno: fail with it; SHORT_WRITE: write half. */
static int verdict(int kind) {
    if (!(armed_calls & kind)) return 0;
    seen++;
    if (seen < armed_from || seen - armed_from >= armed_times) return 0;
    fired++;
    return armed_error;
}

static void all(const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    const char *rest = data;
    while (size) {
        ssize_t count = real_write(trace, rest, size);
        if (count <= 0) abort();
        rest += count;
        size -= count;
    }
}

/* One record: five numbers of eight bytes, then two paths and the data. */
static void record(int kind, const char *path, const char *other, int64_t offset, const void *data, size_t size) {
    if (trace < 0) return;
    uint64_t head[5] = {kind, strlen(path), strlen(other), (uint64_t)offset, data ? size : 0};
    all(head, sizeof head);
    all(path, head[1]);
    all(other, head[2]);
    if (data) all(data, size);
}

static ssize_t fail(int error) {
    errno = error;
    return -1;
}

static size_t allowed(int kind, size_t size, int *error) {
    *error = verdict(kind);
    if (*error == SHORT_WRITE) {
        *error = 0;
        return size > 1 ? size / 2 : size;
    }
    if (!*error && quota >= 0 && size) {
        if (quota == 0) *error = ENOSPC;
        if ((size_t)quota < size) size = quota;
        quota -= size;
    }
    return size;
}

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    char path[PATH_MAX];
    if (!path_of(file, path)) return real_write(file, data, size);
    pthread_mutex_lock(&lock);
    int error;
    size = allowed(WRITE, size, &error);
    off_t offset = trace >= 0 ? lseek(file, 0, SEEK_CUR) : 0;
    ssize_t count = error ? fail(error) : real_write(file, data, size);
    if (count > 0) record(WRITE, path, "", offset, data, count);
    int kept = errno;
    pthread_mutex_unlock(&lock);
    errno = kept;
    return count;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    char path[PATH_MAX];
    if (!path_of(file, path)) return real_pwrite64(file, data, size, offset);
    pthread_mutex_lock(&lock);
    int error;
    size = allowed(WRITE, size, &error);
    ssize_t count = error ? fail(error) : real_pwrite64(file, data, size, offset);
    if (count > 0) record(WRITE, path, "", offset, data, count);
    int kept = errno;
    pthread_mutex_unlock(&lock);
    errno = kept;
    return count;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

/* What shares blocks leaves no bytes for the trace, and meets no fault: the caller must do without. */
int ioctl(int file, unsigned long request, ...) {
    REAL(int, ioctl, int, unsigned long, void *);
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    char path[PATH_MAX];
    if (request == FICLONE && path_of(file, path)) return (int)fail(EOPNOTSUPP);
    return real_ioctl(file, request, argument);
}

#define GUARDED(kind, mine, call, ...) \
    if (!(mine)) return call; \
    pthread_mutex_lock(&lock); \
    int error = verdict(kind); \
    int result = error ? (int)fail(error) : call; \
    if (result >= 0) record(kind, __VA_ARGS__); \
    int kept = errno; \
    pthread_mutex_unlock(&lock); \
    errno = kept; \
    return result

int fsync(int file) {
    REAL(int, fsync, int);
    char path[PATH_MAX];
    GUARDED(SYNC, path_of(file, path), real_fsync(file), path, "", 0, NULL, 0);
}

int fdatasync(int file) {
    REAL(int, fdatasync, int);
    char path[PATH_MAX];
    GUARDED(SYNC, path_of(file, path), real_fdatasync(file), path, "", 0, NULL, 0);
}

int ftruncate64(int file, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    char path[PATH_MAX];
    GUARDED(TRUNCATE, path_of(file, path), real_ftruncate64(file, length), path, "", length, NULL, 0);
}

int renameat(int from, const char *old, int to, const char *name) {
    REAL(int, renameat, int, const char *, int, const char *);
    char source[PATH_MAX], target[PATH_MAX];
    GUARDED(RENAME, path_at(from, old, source) && path_at(to, name, target), real_renameat(from, old, to, name), source, target, 0,
            NULL, 0);
}

int rename(const char *old, const char *name) { return renameat(AT_FDCWD, old, AT_FDCWD, name); }

int linkat(int from, const char *old, int to, const char *name, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    char source[PATH_MAX], target[PATH_MAX];
    GUARDED(LINK, path_at(from, old, source) && path_at(to, name, target), real_linkat(from, old, to, name, flags), source, target, 0,
            NULL, 0);
}

int link(const char *old, const char *name) { return linkat(AT_FDCWD, old, AT_FDCWD, name, 0); }

int unlinkat(int folder, const char *name, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char path[PATH_MAX];
    GUARDED(flags & AT_REMOVEDIR ? RMDIR : UNLINK, path_at(folder, name, path), real_unlinkat(folder, name, flags), path, "", 0, NULL, 0);
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char path[PATH_MAX];
    GUARDED(MKDIR, path_at(folder, name, path), real_mkdirat(folder, name, mode), path, "", 0, NULL, 0);
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int openat64(int folder, const char *name, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    char path[PATH_MAX];
    /* Only opens that may change something leave a trace; its offset says whether the file is emptied. */
    if (!path_at(folder, name, path)) return real_openat64(folder, name, flags, mode);
    pthread_mutex_lock(&lock);
    int error = verdict(OPEN);
    int file = error ? (int)fail(error) : real_openat64(folder, name, flags, mode);
    if (file >= 0 && flags & (O_CREAT | O_TRUNC)) record(OPEN, path, "", flags & O_TRUNC ? 1 : 0, NULL, 0);
    int kept = errno;
    pthread_mutex_unlock(&lock);
    errno = kept;
    return file;
}

int open64(const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return openat64(AT_FDCWD, name, flags, mode);
}

int open(const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return openat64(AT_FDCWD, name, flags, mode);
}

/* Orders from the program. */

void file_faults_watch(const char *folder) {
    pthread_mutex_lock(&lock);
    snprintf(prefix, sizeof prefix, "%s", folder);
    prefix_length = strlen(prefix);
    pthread_mutex_unlock(&lock);
}

void file_faults_arm(int calls, long from, long times, int error) {
    pthread_mutex_lock(&lock);
    armed_calls = calls;
    armed_from = from;
    armed_times = times;
    armed_error = error;
    seen = fired = 0;
    pthread_mutex_unlock(&lock);
}

void file_faults_quota(long bytes) {
    pthread_mutex_lock(&lock);
    quota = bytes;
    pthread_mutex_unlock(&lock);
}

long file_faults_fired(void) {
    pthread_mutex_lock(&lock);
    long count = fired;
    pthread_mutex_unlock(&lock);
    return count;
}

int file_faults_trace(const char *path) {
    REAL(int, openat64, int, const char *, int, ...);
    pthread_mutex_lock(&lock);
    if (trace >= 0) close(trace);
    trace = path ? real_openat64(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    int result = path && trace < 0 ? -1 : 0;
    pthread_mutex_unlock(&lock);
    return result;
}

void file_faults_mark(const char *text) {
    pthread_mutex_lock(&lock);
    record(MARK, text, "", 0, NULL, 0);
    pthread_mutex_unlock(&lock);
}
