/* Preloaded, it makes every sync of a file take SLOW_DISK_MS milliseconds longer, as a tired disk does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_the_disk(void) {
    const char *milliseconds = getenv("SLOW_DISK_MS");
    usleep(1000 * (milliseconds ? atoi(milliseconds) : 0));
}

int fsync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    wait_for_the_disk();
    return real(descriptor);
}

int fdatasync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    wait_for_the_disk();
    return real(descriptor);
}
