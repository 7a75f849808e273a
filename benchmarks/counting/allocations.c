/* Counts the calls of CPython's object and memory allocators (PyMem_SetAllocator, since 3.4), and passes them on.
   Built without Python.h: the interpreter that loads it has the two functions. */

#include <stddef.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *block, size_t size);
    void (*free)(void *ctx, void *block);
} Allocator; /* PyMemAllocatorEx */

extern void PyMem_GetAllocator(int domain, Allocator *allocator);
extern void PyMem_SetAllocator(int domain, Allocator *allocator);

enum { MEM = 1, OBJ = 2, DOMAINS = 3 }; /* not RAW: it may be called without the GIL, and serves the other two */

static Allocator before[DOMAINS];
static unsigned long long calls;

static void *count_malloc(void *ctx, size_t size) {
    Allocator *next = ctx;
    calls++;
    return next->malloc(next->ctx, size);
}

static void *count_calloc(void *ctx, size_t count, size_t size) {
    Allocator *next = ctx;
    calls++;
    return next->calloc(next->ctx, count, size);
}

static void *count_realloc(void *ctx, void *block, size_t size) {
    Allocator *next = ctx;
    calls++;
    return next->realloc(next->ctx, block, size);
}

static void pass_free(void *ctx, void *block) {
    Allocator *next = ctx;
    next->free(next->ctx, block);
}

void begin(void) {
    calls = 0;
    for (int domain = MEM; domain <= OBJ; domain++) {
        PyMem_GetAllocator(domain, &before[domain]);
        Allocator counting = {&before[domain], count_malloc, count_calloc, count_realloc, pass_free};
        PyMem_SetAllocator(domain, &counting);
    }
}

unsigned long long end(void) {
    for (int domain = MEM; domain <= OBJ; domain++)
        PyMem_SetAllocator(domain, &before[domain]);
    return calls;
}
