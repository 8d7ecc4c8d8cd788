/* Preloaded into a process: writes into a log what the process does to files under a folder, in order, with the bytes.

   Only what powercut.py needs: which bytes and names were on their way, and what was asked to be on the disk. A record
   is  kind, descriptor's inode, second inode, offset, length of a name, length of a second one, length of the bytes.  */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct record { uint64_t kind, inode, other, offset, name, second, bytes; };

static int log_fd = -1;
static char root[PATH_MAX];
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    const char *log = getenv("RECORD_LOG"), *under = getenv("RECORD_ROOT");
    if (!log || !under || !realpath(under, root)) return;
    unsetenv("LD_PRELOAD"); /* what it starts is not recorded: two would write into one another's records */
    log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(char kind, uint64_t inode, uint64_t other, uint64_t offset, const char *name, const char *second,
                const void *bytes, size_t count) {
    struct record head = {kind, inode, other, offset, name ? strlen(name) : 0, second ? strlen(second) : 0, count};
    real_write(log_fd, &head, sizeof head);
    if (head.name) real_write(log_fd, name, head.name);
    if (head.second) real_write(log_fd, second, head.second);
    for (size_t done = 0; done < count;) {
        ssize_t some = real_write(log_fd, (const char *)bytes + done, count - done);
        if (some <= 0) abort();
        done += some;
    }
}

/* Where a name leads to, its folder resolved: 1 if under the root. */
static int within(int at, const char *name, char *out) {
    char whole[PATH_MAX * 2], folder[PATH_MAX * 2], link[64];
    if (log_fd < 0 || !name) return 0;
    if (name[0] == '/') snprintf(whole, sizeof whole, "%s", name);
    else {
        char base[PATH_MAX];
        ssize_t size;
        if (at == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            if ((size = readlink(link, base, sizeof base - 1)) < 0) return 0;
            base[size] = 0;
        }
        snprintf(whole, sizeof whole, "%s/%s", base, name);
    }
    snprintf(folder, sizeof folder, "%s", whole);
    for (size_t end = strlen(folder); end > 1 && folder[end - 1] == '/'; end--) folder[end - 1] = 0;
    char *last = strrchr(folder, '/'), resolved[PATH_MAX];
    if (!last) return 0;
    *last = 0;
    if (!realpath(*folder ? folder : "/", resolved)) return 0;
    if (strlen(resolved) + strlen(last) + 2 > PATH_MAX) return 0;
    last[0] = '/';
    strcat(strcpy(out, resolved), last);
    size_t size = strlen(root);
    return !strncmp(out, root, size) && (out[size] == '/' || !out[size]);
}

/* The inode of a descriptor of a regular file or folder under the root, 0 for others. */
static uint64_t known(int fd) {
    char link[64], path[PATH_MAX];
    struct stat at;
    int kept = errno;
    if (log_fd < 0 || fd == log_fd || fstat(fd, &at) || !(S_ISREG(at.st_mode) || S_ISDIR(at.st_mode))) { errno = kept; return 0; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (size < 0) return 0;
    path[size] = 0;
    return strncmp(path, root, strlen(root)) ? 0 : at.st_ino;
}

static uint64_t inode_of(const char *path) { struct stat at; return lstat(path, &at) ? 0 : at.st_ino; }

static int opened(int (*real)(int, const char *, int, ...), int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int nameless = (flags & O_TMPFILE) == O_TMPFILE;
    if (!(nameless || flags & (O_CREAT | O_TRUNC)) || !within(at, name, path)) return real(at, name, flags, mode);
    pthread_mutex_lock(&order);
    uint64_t before = inode_of(path);
    int fd = real(at, name, flags, mode), kept = errno;
    struct stat made;
    if (fd >= 0 && nameless && !fstat(fd, &made)) put('c', made.st_ino, 0, 0, NULL, NULL, NULL, 0);
    else if (fd >= 0) {
        if (!before) put('c', inode_of(path), 0, 0, path, NULL, NULL, 0);
        else if (flags & O_TRUNC) put('t', before, 0, 0, NULL, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&order);
    errno = kept;
    return fd;
}

static int open_by(int at, const char *name, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, ...);
    return opened(real, at, name, flags, mode);
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *name, int flags, ...) { MODE return open_by(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return open_by(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE return open_by(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE return open_by(at, name, flags | O_LARGEFILE, mode); }
int creat(const char *name, mode_t mode) { return open_by(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

/* C's own streams do not write through write: what they leave is recorded as a whole when they are closed. */
static FILE *streamed(FILE *(*real)(const char *, const char *), const char *name, const char *mode) {
    char path[PATH_MAX];
    if (mode[0] == 'r' || !within(AT_FDCWD, name, path)) return real(name, mode);
    pthread_mutex_lock(&order);
    uint64_t before = inode_of(path);
    FILE *stream = real(name, mode);
    int kept = errno;
    if (stream && !before) put('c', inode_of(path), 0, 0, path, NULL, NULL, 0);
    else if (stream && mode[0] == 'w') put('t', before, 0, 0, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&order);
    errno = kept;
    return stream;
}
FILE *fopen(const char *name, const char *mode) { REAL(FILE *, fopen, const char *, const char *); return streamed(real, name, mode); }
FILE *fopen64(const char *name, const char *mode) { REAL(FILE *, fopen64, const char *, const char *); return streamed(real, name, mode); }

int fclose(FILE *stream) {
    REAL(int, fclose, FILE *);
    int fd = fileno(stream);
    uint64_t inode = fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY ? known(fd) : 0;
    if (!inode) return real(stream);
    char link[64];
    struct stat at;
    pthread_mutex_lock(&order);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int written = fflush(stream), reader = open(link, O_RDONLY | O_CLOEXEC);
    if (written || reader < 0 || fstat(reader, &at)) abort();
    char *all = malloc(at.st_size + 1);
    if (!all || pread(reader, all, at.st_size, 0) != at.st_size) abort();
    put('v', inode, 0, 0, NULL, NULL, all, at.st_size);
    free(all);
    close(reader);
    pthread_mutex_unlock(&order);
    return real(stream);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    uint64_t inode = known(fd);
    if (!inode) return real_write(fd, bytes, count);
    pthread_mutex_lock(&order);
    struct stat at;
    off_t offset = (fcntl(fd, F_GETFL) & O_APPEND) && !fstat(fd, &at) ? at.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t done = real_write(fd, bytes, count);
    int kept = errno;
    if (done > 0) put('w', inode, 0, offset, NULL, NULL, bytes, done);
    pthread_mutex_unlock(&order);
    errno = kept;
    return done;
}

static ssize_t pwritten(int fd, const void *bytes, size_t count, off_t offset) {
    uint64_t inode = known(fd);
    if (!inode) return real_pwrite(fd, bytes, count, offset);
    pthread_mutex_lock(&order);
    ssize_t done = real_pwrite(fd, bytes, count, offset);
    int kept = errno;
    if (done > 0) put('w', inode, 0, offset, NULL, NULL, bytes, done);
    pthread_mutex_unlock(&order);
    errno = kept;
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwritten(fd, bytes, count, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) { return pwritten(fd, bytes, count, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (!known(fd)) return real(fd, parts, count);
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return all ? all : -1;
        all += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return all;
}

/* Copies within the kernel are refused, as an old kernel refuses them: programs then read and write. */
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!known(out)) return real(in, from, out, to, count, flags);
    errno = EXDEV;
    return -1;
}
ssize_t sendfile64(int out, int in, off64_t *from, size_t count) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    if (!known(out)) return real(out, in, from, count);
    errno = EINVAL;
    return -1;
}
ssize_t sendfile(int out, int in, off_t *from, size_t count) { return sendfile64(out, in, from, count); }

/* What is written through shared memory is not seen: said, so that nothing is claimed of it. */
static void *mapped(void *(*real)(void *, size_t, int, int, int, off_t), void *at, size_t size, int may, int flags, int fd, off_t offset) {
    uint64_t inode = (flags & MAP_SHARED) && (may & PROT_WRITE) && fd >= 0 ? known(fd) : 0;
    char link[64], path[PATH_MAX] = "";
    if (inode) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t read = readlink(link, path, sizeof path - 1);
        path[read < 0 ? 0 : read] = 0;
        pthread_mutex_lock(&order);
        put('m', inode, 0, 0, path, NULL, NULL, 0);
        pthread_mutex_unlock(&order);
    }
    return real(at, size, may, flags, fd, offset);
}
void *mmap(void *at, size_t size, int may, int flags, int fd, off_t offset) {
    REAL(void *, mmap, void *, size_t, int, int, int, off_t);
    return mapped(real, at, size, may, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int may, int flags, int fd, off_t offset) { return mmap(at, size, may, flags, fd, offset); }

/* A sync. Of a folder with all of its names and inodes: some libraries rename without asking libc. */
static void synced(int fd, uint64_t inode) {
    struct stat at;
    if (fstat(fd, &at) || !S_ISDIR(at.st_mode)) { put('s', inode, 0, 0, NULL, NULL, NULL, 0); return; }
    char link[64], path[PATH_MAX], *names = NULL;
    size_t size = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    DIR *folder = realpath(link, path) ? opendir(path) : NULL;
    FILE *list = open_memstream(&names, &size);
    for (struct dirent *entry; folder && list && (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            fprintf(list, "%llu %s%c", (unsigned long long)entry->d_ino, entry->d_name, 0);
    if (folder) closedir(folder);
    if (list) fclose(list);
    put('n', inode, 0, 0, NULL, NULL, names, size);
    free(names);
}

#define ON_DESCRIPTOR(kind, where) \
    uint64_t inode = known(fd); \
    pthread_mutex_lock(&order); \
    int done = CALL, kept = errno; \
    if (inode && !done) { if (kind == 's') synced(fd, inode); else put(kind, inode, 0, where, NULL, NULL, NULL, 0); } \
    pthread_mutex_unlock(&order); \
    errno = kept; \
    return done;
#define CALL real(fd, size)
int ftruncate(int fd, off_t size) { REAL(int, ftruncate, int, off_t); ON_DESCRIPTOR('t', size) }
int ftruncate64(int fd, off_t size) { REAL(int, ftruncate64, int, off_t); ON_DESCRIPTOR('t', size) }
#undef CALL
#define CALL real(fd)
int fsync(int fd) { REAL(int, fsync, int); ON_DESCRIPTOR('s', 0) }
int fdatasync(int fd) { REAL(int, fdatasync, int); ON_DESCRIPTOR('s', 0) }
#undef CALL
#define CALL real(fd, how, from, size)
int fallocate(int fd, int how, off_t from, off_t size) {
    REAL(int, fallocate, int, int, off_t, off_t);
    if (known(fd)) { errno = EOPNOTSUPP; return -1; }
    return CALL;
}
int fallocate64(int fd, int how, off_t from, off_t size) { return fallocate(fd, how, from, size); }
#undef CALL

/* Names: made, moved, linked, removed. */
#define NAMED(kind, at, name, call) \
    char path[PATH_MAX]; \
    if (!within(at, name, path)) return call; \
    pthread_mutex_lock(&order); \
    uint64_t inode = inode_of(path); \
    int done = call, kept = errno; \
    if (!done) put(kind, inode ? inode : inode_of(path), 0, 0, path, NULL, NULL, 0); \
    pthread_mutex_unlock(&order); \
    errno = kept; \
    return done;
int mkdirat(int at, const char *name, mode_t mode) { REAL(int, mkdirat, int, const char *, mode_t); NAMED('d', at, name, real(at, name, mode)) }
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
int unlinkat(int at, const char *name, int flags) { REAL(int, unlinkat, int, const char *, int); NAMED('u', at, name, real(at, name, flags)) }
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) { REAL(int, remove, const char *); NAMED('u', AT_FDCWD, name, real(name)) }

#define TWICE(kind, call) \
    char from[PATH_MAX], to[PATH_MAX]; \
    int a = within(old_at, old, from), b = within(new_at, new, to); \
    if (!a && !b) return call; \
    pthread_mutex_lock(&order); \
    uint64_t inode = inode_of(from), gone = inode_of(to); \
    int done = call, kept = errno; \
    if (!done) put(kind, inode, gone, 0, from, to, NULL, 0); \
    pthread_mutex_unlock(&order); \
    errno = kept; \
    return done;
int renameat2(int old_at, const char *old, int new_at, const char *new, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    TWICE('r', real(old_at, old, new_at, new, flags))
}
int renameat(int old_at, const char *old, int new_at, const char *new) { return renameat2(old_at, old, new_at, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int old_at, const char *old, int new_at, const char *new, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    TWICE('l', real(old_at, old, new_at, new, flags))
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
