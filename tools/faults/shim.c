/* Preloaded into a process: writes down what it changes below a folder, lets calls fail, and moves its clock.

   FAULTS_PREFIX names the folder, FAULTS_LOG the file for the record. The rest is asked for through the functions
   whose names begin with faults_. Files are told by inode, names by the inode of their folder, so that files without a
   name and folders that are renamed are recorded as what they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* FORTIFY's and large-file names lead to the same places, so what is looked up is looked up by name. */
#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static const char *prefix;
static size_t prefix_length;
static int log_descriptor = -1;

struct event {
    uint8_t kind;
    uint8_t synchronous;
    uint16_t name_bytes;
    uint32_t data_bytes;
    uint64_t one, other, offset;
};

__attribute__((constructor)) static void begin(void) {
    prefix = getenv("FAULTS_PREFIX");
    if (!prefix) return;
    prefix_length = strlen(prefix);
    const char *path = getenv("FAULTS_LOG");
    REAL(int, "open", const char *, int, ...);
    if (path) log_descriptor = real(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_below(const char *path) {
    return prefix && !strncmp(path, prefix, prefix_length) && (path[prefix_length] == '/' || !path[prefix_length]);
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static int is_watched(int descriptor) {
    char path[PATH_MAX];
    if (!prefix || descriptor == log_descriptor) return 0;
    int saved = errno, watched = path_of(descriptor, path) && is_below(path);
    errno = saved;
    return watched;
}

static int is_watched_at(int folder, const char *name) {
    char path[PATH_MAX];
    if (!prefix) return 0;
    if (name[0] == '/') return is_below(name);
    int saved = errno, watched;
    if (folder == AT_FDCWD) watched = getcwd(path, sizeof path) && is_below(path);
    else watched = path_of(folder, path) && is_below(path);
    errno = saved;
    return watched;
}

static uint64_t inode_of(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) ? 0 : status.st_ino;
}

static uint64_t inode_at(int folder, const char *name) {
    struct stat status;
    return fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) ? 0 : status.st_ino;
}

static uint64_t folder_inode(int folder, const char *path, const char **name) {
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    struct stat status;
    if (!slash) return folder == AT_FDCWD ? inode_at(folder, ".") : inode_of(folder);
    char above[PATH_MAX];
    snprintf(above, sizeof above, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return fstatat(folder, above, &status, 0) ? 0 : status.st_ino;
}

static void note(uint8_t kind, uint64_t one, uint64_t other, uint64_t offset, const char *name, const struct iovec *data,
                 int count, ssize_t bytes, int synchronous) {
    if (log_descriptor < 0) return;
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    int saved = errno, parts = 2;
    struct event event = {kind, (uint8_t)synchronous, name ? (uint16_t)strlen(name) : 0, (uint32_t)bytes, one, other, offset};
    struct iovec pieces[1026] = {{&event, sizeof event}, {(void *)name, event.name_bytes}};
    for (int each = 0; each < count && bytes > 0 && parts < 1026; each++) {
        size_t length = data[each].iov_len < (size_t)bytes ? data[each].iov_len : (size_t)bytes;
        pieces[parts++] = (struct iovec){data[each].iov_base, length};
        bytes -= (ssize_t)length;
    }
    if (real(log_descriptor, pieces, parts) < 0) abort();
    errno = saved;
}

static void note_write(int descriptor, uint64_t offset, const struct iovec *data, int count, ssize_t bytes) {
    if (log_descriptor < 0 || bytes <= 0) return;
    int flags = fcntl(descriptor, F_GETFL);
    note('w', inode_of(descriptor), 0, offset, NULL, data, count, bytes, (flags & O_DSYNC) != 0);
}

void faults_mark(int begun, uint64_t number) { note(begun ? 'b' : 'e', number, 0, 0, NULL, NULL, 0, 0, 0); }

static char kinds[32];
static long countdown = -1, met;
static int code, persistent, fired;

/* The call number `number` (from 1 on) of those whose letters are in `letters` fails with `error`, or with 0 comes
   short by half where it writes; so do all that follow if `forever`. */
void faults_arm(const char *letters, long number, int error, int forever) {
    snprintf(kinds, sizeof kinds, "%s", letters);
    code = error;
    persistent = forever;
    fired = 0;
    met = 0;
    __atomic_store_n(&countdown, number, __ATOMIC_SEQ_CST);
}

int faults_disarm(void) {
    __atomic_store_n(&countdown, -1, __ATOMIC_SEQ_CST);
    return fired;
}

static int fails(char letter) {
    if (countdown < 0 || !strchr(kinds, letter)) return 0;
    long now = __atomic_add_fetch(&met, 1, __ATOMIC_SEQ_CST);
    if (now != countdown && !(persistent && now > countdown)) return 0;
    __atomic_add_fetch(&fired, 1, __ATOMIC_SEQ_CST);
    errno = code;
    return 1;
}

static int64_t clock_offset;
void faults_clock(int64_t seconds) { clock_offset = seconds; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME) now->tv_sec += clock_offset;
    return result;
}

#define HALF_OR_FAIL(half) \
    do { if (fails('w')) { if (code) return -1; half; } } while (0)

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    if (!is_watched(descriptor)) return real(descriptor, data, bytes, offset);
    HALF_OR_FAIL(bytes = bytes / 2);
    ssize_t done = real(descriptor, data, bytes, offset);
    struct iovec piece = {(void *)data, bytes};
    note_write(descriptor, (uint64_t)offset, &piece, 1, done);
    return done;
}
ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off_t offset) {
    return pwrite(descriptor, data, bytes, offset);
}

static off_t place_of(int descriptor) {
    return lseek(descriptor, 0, fcntl(descriptor, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!is_watched(descriptor)) return real(descriptor, data, bytes);
    HALF_OR_FAIL(bytes = bytes / 2);
    off_t offset = place_of(descriptor);
    ssize_t done = real(descriptor, data, bytes);
    struct iovec piece = {(void *)data, bytes};
    note_write(descriptor, (uint64_t)offset, &piece, 1, done);
    return done;
}

ssize_t writev(int descriptor, const struct iovec *data, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (!is_watched(descriptor)) return real(descriptor, data, count);
    HALF_OR_FAIL(count = (count + 1) / 2);
    off_t offset = place_of(descriptor);
    ssize_t done = real(descriptor, data, count);
    note_write(descriptor, (uint64_t)offset, data, count, done);
    return done;
}

ssize_t pwritev(int descriptor, const struct iovec *data, int count, off_t offset) {
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    if (!is_watched(descriptor)) return real(descriptor, data, count, offset);
    HALF_OR_FAIL(count = (count + 1) / 2);
    ssize_t done = real(descriptor, data, count, offset);
    note_write(descriptor, (uint64_t)offset, data, count, done);
    return done;
}
ssize_t pwritev64(int descriptor, const struct iovec *data, int count, off_t offset) {
    return pwritev(descriptor, data, count, offset);
}

/* A copy inside the kernel is made by hand, so that its bytes are seen. */
ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset, size_t bytes, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off_t *, int, off_t *, size_t, unsigned);
    if (!is_watched(to)) return real(from, from_offset, to, to_offset, bytes, flags);
    static __thread char buffer[1 << 16];
    if (bytes > sizeof buffer) bytes = sizeof buffer;
    ssize_t got = from_offset ? pread(from, buffer, bytes, *from_offset) : read(from, buffer, bytes);
    if (got <= 0) return got;
    ssize_t done = to_offset ? pwrite(to, buffer, (size_t)got, *to_offset) : write(to, buffer, (size_t)got);
    if (done < 0) return done;
    if (from_offset) *from_offset += done;
    else if (done < got) lseek(from, done - got, SEEK_CUR);
    if (to_offset) *to_offset += done;
    return done;
}

static int synced(int descriptor, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!is_watched(descriptor)) return real(descriptor);
    if (fails('s')) return -1;
    int result = real(descriptor);
    if (!result) note('s', inode_of(descriptor), 0, 0, NULL, NULL, 0, 0, 0);
    return result;
}
int fsync(int descriptor) { return synced(descriptor, "fsync"); }
int fdatasync(int descriptor) { return synced(descriptor, "fdatasync"); }

int ftruncate(int descriptor, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    if (!is_watched(descriptor)) return real(descriptor, size);
    if (fails('w')) return -1;
    int result = real(descriptor, size);
    if (!result) note('t', inode_of(descriptor), 0, (uint64_t)size, NULL, NULL, 0, 0, 0);
    return result;
}
int ftruncate64(int descriptor, off_t size) { return ftruncate(descriptor, size); }

int posix_fallocate(int descriptor, off_t offset, off_t length) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    if (is_watched(descriptor) && fails('w')) return code ? code : EIO;
    int result = real(descriptor, offset, length);
    struct stat status;
    if (!result && is_watched(descriptor) && !fstat(descriptor, &status))
        note('t', status.st_ino, 0, (uint64_t)status.st_size, NULL, NULL, 0, 0, 0);
    return result;
}
int posix_fallocate64(int descriptor, off_t offset, off_t length) { return posix_fallocate(descriptor, offset, length); }

ssize_t pread(int descriptor, void *data, size_t bytes, off_t offset) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    if (countdown >= 0 && is_watched(descriptor) && fails('p')) return -1;
    return real(descriptor, data, bytes, offset);
}
ssize_t pread64(int descriptor, void *data, size_t bytes, off_t offset) { return pread(descriptor, data, bytes, offset); }

ssize_t read(int descriptor, void *data, size_t bytes) {
    REAL(ssize_t, "read", int, void *, size_t);
    if (countdown >= 0 && is_watched(descriptor) && fails('p')) return -1;
    return real(descriptor, data, bytes);
}

int openat(int folder, const char *path, int flags, ...) {
    REAL(int, "openat", int, const char *, int, ...);
    mode_t mode = 0;
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if (!is_watched_at(folder, path)) return real(folder, path, flags, mode);
    if (fails('o')) return -1;
    int is_nameless = (flags & O_TMPFILE) == O_TMPFILE, saved = errno;
    int is_new = !is_nameless && (flags & O_CREAT) && !inode_at(folder, path);
    errno = saved;
    int descriptor = real(folder, path, flags, mode);
    if (descriptor < 0) return descriptor;
    const char *name;
    if (is_nameless) note('n', inode_of(descriptor), 0, 0, NULL, NULL, 0, 0, 0);
    else if (is_new) {
        uint64_t above = folder_inode(folder, path, &name);
        note('c', above, inode_of(descriptor), 0, name, NULL, 0, 0, 0);
    } else if (flags & O_TRUNC) note('t', inode_of(descriptor), 0, 0, NULL, NULL, 0, 0, 0);
    return descriptor;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return openat(AT_FDCWD, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
int openat64(int folder, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat(folder, path, flags, mode);
}
int __open64_2(const char *path, int flags) { return openat(AT_FDCWD, path, flags); }
int __open_2(const char *path, int flags) { return openat(AT_FDCWD, path, flags); }
int __openat64_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }
int __openat_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    if (!is_watched_at(folder, path)) return real(folder, path, mode);
    if (fails('m')) return -1;
    int result = real(folder, path, mode);
    const char *name;
    if (!result) {
        uint64_t above = folder_inode(folder, path, &name);
        note('m', above, inode_at(folder, path), 0, name, NULL, 0, 0, 0);
    }
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    if (!is_watched_at(to_folder, to)) return real(from_folder, from, to_folder, to, flags);
    if (fails('l')) return -1;
    int result = real(from_folder, from, to_folder, to, flags);
    const char *name;
    if (!result) {
        uint64_t above = folder_inode(to_folder, to, &name);
        note('l', above, inode_at(to_folder, to), 0, name, NULL, 0, 0, 0);
    }
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (!is_watched_at(folder, path)) return real(folder, path, flags);
    if (fails('u')) return -1;
    const char *name;
    uint64_t above = folder_inode(folder, path, &name);
    int result = real(folder, path, flags);
    if (!result) note('u', above, 0, 0, name, NULL, 0, 0, 0);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    if (!is_watched_at(to_folder, to)) return real(from_folder, from, to_folder, to, flags);
    if (fails('r')) return -1;
    const char *old_name, *new_name;
    uint64_t above = folder_inode(from_folder, from, &old_name), target = folder_inode(to_folder, to, &new_name);
    int result = real(from_folder, from, to_folder, to, flags);
    struct iovec piece = {(void *)new_name, strlen(new_name)};
    if (!result) note('r', above, target, 0, old_name, &piece, 1, (ssize_t)piece.iov_len, 0);
    return result;
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
