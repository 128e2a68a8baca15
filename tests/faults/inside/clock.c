/* A wall clock that a file sets: for LD_PRELOAD in a command and all that it starts.
 *
 * MASKLAKE_FAULT_CLOCK names a file that holds how many seconds the time is ahead. It is looked at a few times
 * a second. The monotonic clock stays as it is, as when a real clock is set. What waits until a time of the
 * wall clock waits as long as it would have: the kernel knows nothing of ours. (libfaketime 0.9.10 does the
 * same, but lets time.sleep of Python 3.11 fail where the monotonic clock is to be left alone.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 200000000L /* between two looks at the file */
#define AGO 1000000000L    /* seconds: a time below this is of a monotonic clock, whatever it is called */

static atomic_long ahead, looked;

static long seconds_ahead(void) {
  static const char *name;
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  long moment = now.tv_sec * 1000000000L + now.tv_nsec;
  if (!name && !(name = getenv("MASKLAKE_FAULT_CLOCK"))) name = "";
  if (*name && moment - looked > LOOK_NS) {
    char text[32] = {0};
    int file = open(name, O_RDONLY | O_CLOEXEC);
    looked = moment;
    if (file >= 0) {
      if (read(file, text, sizeof text - 1) > 0) ahead = strtol(text, NULL, 10);
      close(file);
    }
  }
  return ahead;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += seconds_ahead();
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int result = (int)syscall(SYS_gettimeofday, now, zone);
  if (!result) now->tv_sec += seconds_ahead();
  return result;
}

time_t time(time_t *kept) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (kept) *kept = now.tv_sec;
  return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict met, pthread_mutex_t *restrict lock,
                           const struct timespec *restrict until) {
  static int (*original)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec real = *until;
  if (!original) original = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (real.tv_sec > AGO) real.tv_sec -= seconds_ahead();
  return original(met, lock, &real);
}
