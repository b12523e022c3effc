/*
 * Lets user-mode Linux 6.1 run on processors whose register state is larger than it knows (AMX: 11 KiB, not 2.6).
 *
 * It reads and writes the floating-point registers of its processes by ptrace, with a buffer of the size that it knows.
 * The host's kernel fills what fits, but takes back a whole one only (EFAULT: the guest dies as it starts init). Preloaded,
 * this puts what is written in front of what the process has behind it, which is state that nothing in the guest uses.
 *
 * Source: ptrace(2), PTRACE_SETREGSET; xstateregs_set() in the kernel's arch/x86/kernel/fpu/regset.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

/* More than any processor has so far. */
enum { MOST = 1 << 16 };

typedef long (*ptrace_function)(int, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_function next;
    static char whole[MOST] __attribute__((aligned(64)));
    va_list list;
    va_start(list, request);
    pid_t pid = va_arg(list, pid_t);
    void *what = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);
    if (!next)
        next = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
    if (!next) {
        errno = ENOSYS;
        return -1;
    }
    if (request == PTRACE_SETREGSET && (unsigned long)what == NT_X86_XSTATE) {
        const struct iovec *given = data;
        struct iovec all = { whole, MOST };
        if (next(PTRACE_GETREGSET, pid, what, &all) < 0)
            return -1;
        if (given->iov_len < all.iov_len) {
            memcpy(whole, given->iov_base, given->iov_len);
            return next(request, pid, what, &all);
        }
    }
    return next(request, pid, what, data);
}
