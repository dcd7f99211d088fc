/* File operations below one directory, recorded, killed at, or made to fail; and the wall clock.

Loaded with LD_PRELOAD, so that what torch, safetensors and Arrow write is seen as well as what
Python does. Idle until `faults_arm` is called. Not for programs that make system calls without libc.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name, ...) ((__typeof__(&name))next(#name))(__VA_ARGS__)

enum action { RECORD, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, FAIL_ONCE, FAIL_ON, JUMP };

static char root[PATH_MAX], kind[16], place[PATH_MAX];
static int nth, error, recording = -1;
static enum action action;
static long jump, offset;
static int armed, seen, failing;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Watch one directory; `record` is appended a line for each operation, and one when it happens. */
void faults_arm(const char *directory, const char *operation, const char *relative, int number,
                int what, int number_of_error, long seconds, const char *record) {
  snprintf(root, sizeof root, "%s/", directory);
  snprintf(kind, sizeof kind, "%s", operation);
  snprintf(place, sizeof place, "%s", relative);
  nth = number, action = what, error = number_of_error, jump = seconds;
  seen = failing = 0;
  recording = REAL(open, record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  armed = 1;
}

static void say(const char *operation, const char *relative, long bytes) {
  char line[PATH_MAX + 64];
  int length = snprintf(line, sizeof line, "%s\t%s\t%ld\n", operation, relative, bytes);
  syscall(SYS_write, recording, line, length);
}

/* 0: go on; 1: fail with errno set; 2: kill after it was done; 3: kill when half is written. */
static int met(const char *operation, const char *path, long bytes, int needs_room) {
  if (!armed || strncmp(path, root, strlen(root)) != 0) return 0;
  char relative[PATH_MAX];
  snprintf(relative, sizeof relative, "%s", path + strlen(root));
  /* safetensors writes to a file with a random name first. */
  char *random = strstr(relative, "/.tmp");
  if (random) random[5] = 0;
  int verdict = 0;
  pthread_mutex_lock(&lock);
  say(operation, relative, bytes);
  int here = !strcmp(operation, kind) && !strcmp(relative, place) && ++seen == nth;
  if (here && action != RECORD) say("fault", relative, action);
  if (here && action == KILL_BEFORE) kill(getpid(), SIGKILL), pause();
  if (here && action == KILL_AFTER) verdict = 2;
  if (here && action == KILL_WITHIN) verdict = 3;
  if (here && action == FAIL_ONCE) verdict = 1;
  if (here && action == FAIL_ON) failing = 1;
  if (here && action == JUMP) offset += jump;
  if (failing && (error != ENOSPC || needs_room)) verdict = 1;
  pthread_mutex_unlock(&lock);
  if (verdict == 1) errno = error;
  return verdict;
}

static void after(int verdict) {
  if (verdict >= 2) kill(getpid(), SIGKILL), pause();
}

static const char *at(int directory, const char *path, char *buffer) {
  if (path[0] == '/') return path;
  char link[64];
  snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
  ssize_t length = readlink(link, buffer, PATH_MAX - 1);
  if (length < 0) return path;
  snprintf(buffer + length, PATH_MAX - length, "/%s", path);
  return buffer;
}

static const char *of(int descriptor, char *buffer) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, buffer, PATH_MAX - 1);
  buffer[length < 0 ? 0 : length] = 0;
  return buffer;
}

static int exists(const char *path) {
  struct stat status;
  return stat(path, &status) == 0;
}

#define OPEN(name, parameters, directory, ...)                                        \
  int name parameters {                                                               \
    mode_t mode = 0;                                                                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                                              \
      va_list more;                                                                   \
      va_start(more, flags);                                                          \
      mode = va_arg(more, mode_t);                                                    \
      va_end(more);                                                                   \
    }                                                                                 \
    int verdict = 0;                                                                  \
    char buffer[PATH_MAX];                                                            \
    if (armed && flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) {                   \
      const char *full = at(directory, path, buffer);                                 \
      verdict = met("open", full, 0, !exists(full));                                  \
    }                                                                                 \
    if (verdict == 1) return -1;                                                      \
    int found = REAL(name, __VA_ARGS__, flags, mode);                                 \
    after(verdict);                                                                   \
    return found;                                                                     \
  }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(openat, (int directory, const char *path, int flags, ...), directory, directory, path)
OPEN(openat64, (int directory, const char *path, int flags, ...), directory, directory, path)

#define FOPEN(name)                                                                   \
  FILE *name(const char *path, const char *mode) {                                    \
    char buffer[PATH_MAX];                                                            \
    int verdict = 0;                                                                  \
    if (armed && strpbrk(mode, "wa+")) {                                              \
      const char *full = at(AT_FDCWD, path, buffer);                                  \
      verdict = met("open", full, 0, !exists(full));                                  \
    }                                                                                 \
    if (verdict == 1) return NULL;                                                    \
    FILE *found = REAL(name, path, mode);                                             \
    after(verdict);                                                                   \
    return found;                                                                     \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define WRITE(name, parameters, ...)                                                  \
  ssize_t name parameters {                                                           \
    char buffer[PATH_MAX];                                                            \
    int verdict = armed ? met("write", of(file, buffer), size, 1) : 0;                \
    if (verdict == 1) return -1;                                                      \
    if (verdict == 3) size /= 2;                                                      \
    ssize_t done = REAL(name, __VA_ARGS__);                                           \
    after(verdict);                                                                   \
    return done;                                                                      \
  }
WRITE(write, (int file, const void *data, size_t size), file, data, size)
WRITE(pwrite, (int file, const void *data, size_t size, off_t start), file, data, size, start)
WRITE(pwrite64, (int file, const void *data, size_t size, off_t start), file, data, size, start)
WRITE(sendfile, (int file, int from, off_t *start, size_t size), file, from, start, size)
WRITE(sendfile64, (int file, int from, off_t *start, size_t size), file, from, start, size)
WRITE(writev, (int file, const struct iovec *parts, int size), file, parts, size)

ssize_t copy_file_range(int from, off_t *start, int file, off_t *to, size_t size, unsigned flags) {
  char buffer[PATH_MAX];
  int verdict = armed ? met("write", of(file, buffer), size, 1) : 0;
  if (verdict == 1) return -1;
  if (verdict == 3) size /= 2;
  ssize_t done = REAL(copy_file_range, from, start, file, to, size, flags);
  after(verdict);
  return done;
}

#define CHANGE(name, operation, parameters, path, ...)                                \
  int name parameters {                                                               \
    char buffer[PATH_MAX];                                                            \
    int verdict = armed ? met(operation, path, 0, !strcmp(operation, "mkdir")) : 0;   \
    if (verdict == 1) return -1;                                                      \
    int done = REAL(name, __VA_ARGS__);                                               \
    after(verdict);                                                                   \
    (void)buffer;                                                                     \
    return done;                                                                      \
  }
CHANGE(fsync, "fsync", (int file), of(file, buffer), file)
CHANGE(fdatasync, "fsync", (int file), of(file, buffer), file)
CHANGE(ftruncate, "truncate", (int file, off_t size), of(file, buffer), file, size)
CHANGE(ftruncate64, "truncate", (int file, off_t size), of(file, buffer), file, size)
CHANGE(mkdir, "mkdir", (const char *path, mode_t mode), at(AT_FDCWD, path, buffer), path, mode)
CHANGE(mkdirat, "mkdir", (int directory, const char *path, mode_t mode),
       at(directory, path, buffer), directory, path, mode)
CHANGE(unlink, "unlink", (const char *path), at(AT_FDCWD, path, buffer), path)
CHANGE(unlinkat, flags & AT_REMOVEDIR ? "rmdir" : "unlink",
       (int directory, const char *path, int flags), at(directory, path, buffer), directory, path,
       flags)
CHANGE(rmdir, "rmdir", (const char *path), at(AT_FDCWD, path, buffer), path)
CHANGE(rename, "rename", (const char *path, const char *to), at(AT_FDCWD, to, buffer), path, to)
CHANGE(renameat, "rename", (int from, const char *path, int directory, const char *to),
       at(directory, to, buffer), from, path, directory, to)

/* Where the disk is full, there is no room, either: torch does not say why it cannot write. */
#define ROOM(name, type)                                                              \
  int name(const char *path, struct type *found) {                                    \
    int done = REAL(name, path, found);                                               \
    if (failing && error == ENOSPC) found->f_bavail = found->f_bfree = 0;             \
    return done;                                                                      \
  }
ROOM(statvfs, statvfs)
ROOM(statvfs64, statvfs64)

int clock_gettime(clockid_t clock, struct timespec *found) {
  int done = syscall(SYS_clock_gettime, clock, found);
  if (clock == CLOCK_REALTIME) found->tv_sec += offset;
  return done;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
  int done = syscall(SYS_gettimeofday, found, zone);
  found->tv_sec += offset;
  return done;
}

time_t time(time_t *found) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (found) *found = now.tv_sec;
  return now.tv_sec;
}
