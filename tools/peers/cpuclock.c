// Loaded before a program that computes on one thread (LD_PRELOAD), this makes its clocks show the processor's time of
// the process: on a machine that others use too, their turns are not counted.
//   cc -O2 -shared -fPIC cpuclock.c -o cpuclock.so
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
        clock = CLOCK_PROCESS_CPUTIME_ID;
    }
    return (int)syscall(SYS_clock_gettime, clock, time);
}
