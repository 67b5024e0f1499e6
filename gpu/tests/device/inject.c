/* What a program really asks of the CUDA driver, and what it does when the device breaks under it.
 *
 *     cc -shared -fPIC -O2 -o inject.so gpu/tests/device/inject.c -ldl
 *     CUDA_INJECTION64_PATH=$PWD/inject.so youquanti run experiment.toml
 *
 * The driver loads it into the program as it starts; CUPTI tells it of every call of the process, those of ONNX Runtime and
 * cuDNN included. At the end it writes to standard error, as lines "calls: ...", how many contexts were made and the calls of
 * a stretch of frames by name: from the CALLS_FROM-th launch of a graph (300 unless the environment says otherwise) to as
 * many more. With BREAK_AT=N a kernel that writes to an illegal address runs before the N-th launch: error 700, for good.
 * Declares the few things of CUPTI and of the driver that it needs. */

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRIVER = 1, RESOURCE = 3, ENTER = 0, CONTEXT_CREATED = 1, NAMES = 128 };

typedef struct {
    int site;
    const char *name;
} Call; /* as CUpti_CallbackData begins */

typedef void (*Callback)(void *, int domain, uint32_t what, const void *data);

static struct {
    const char *name;
    unsigned long count;
} calls[NAMES];
static unsigned long launches, from = 300, break_at, contexts, overflow;
static int lock;

static const char POKE[] = ".version 7.0\n.target sm_50\n.address_size 64\n.visible .entry poke()\n{\n.reg .b64 %at;\n"
                           ".reg .b32 %v;\nmov.u64 %at, 8;\nmov.u32 %v, 7;\nst.global.u32 [%at], %v;\nret;\n}\n";

/* In the context that is current, as a kernel of the program's own would. */
static void break_device(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *module, *poke;
    int (*load)(void **, const void *) = (int (*)(void **, const void *))dlsym(driver, "cuModuleLoadData");
    int (*find)(void **, void *, const char *) = (int (*)(void **, void *, const char *))dlsym(driver, "cuModuleGetFunction");
    int (*launch)(void *, int, int, int, int, int, int, int, void *, void **, void **) =
        (int (*)(void *, int, int, int, int, int, int, int, void *, void **, void **))dlsym(driver, "cuLaunchKernel");
    int code = load(&module, POKE);
    if (!code) code = find(&poke, module, "poke");
    if (!code) code = launch(poke, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    fprintf(stderr, "calls: the device is broken now (%d)\n", code);
}

static void count(const char *name) {
    for (int at = 0; at < NAMES; ++at) {
        if (!calls[at].name) calls[at].name = name;
        if (!strcmp(calls[at].name, name)) {
            ++calls[at].count;
            return;
        }
    }
    ++overflow;
}

static void on_event(void *user, int domain, uint32_t what, const void *data) {
    (void)user;
    if (domain == RESOURCE) {
        if (what == CONTEXT_CREATED) __atomic_add_fetch(&contexts, 1, __ATOMIC_RELAXED);
        return;
    }
    const Call *call = data;
    if (call->site != ENTER) return;
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) {
    }
    const int is_launch = !strncmp(call->name, "cuGraphLaunch", 13);
    launches += is_launch;
    const int breaks = is_launch && launches == break_at;
    if (launches > from && launches <= 2 * from) count(call->name);
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    if (breaks) break_device();
}

static void report(void) {
    fprintf(stderr, "calls: %lu contexts made, %lu graphs launched; from the %lu-th launch to the %lu-th:\n", contexts,
            launches, from, 2 * from);
    for (int at = 0; at < NAMES && calls[at].name; ++at)
        fprintf(stderr, "calls: %8lu %s\n", calls[at].count, calls[at].name);
    if (overflow) fprintf(stderr, "calls: %8lu with other names\n", overflow);
}

int InitializeInjection(void) {
    static const char *const libraries[] = {"libcupti.so.13", "libcupti.so", "libcupti.so.12"};
    void *cupti = NULL;
    for (int at = 0; at < 3 && !cupti; ++at) cupti = dlopen(libraries[at], RTLD_NOW);
    if (!cupti) {
        fprintf(stderr, "calls: no libcupti: %s\n", dlerror());
        return 0;
    }
    int (*subscribe)(void **, Callback, void *) = (int (*)(void **, Callback, void *))dlsym(cupti, "cuptiSubscribe");
    int (*enable)(uint32_t, void *, int) = (int (*)(uint32_t, void *, int))dlsym(cupti, "cuptiEnableDomain");
    void *subscriber;
    if (!subscribe || !enable || subscribe(&subscriber, on_event, NULL) || enable(1, subscriber, DRIVER)
        || enable(1, subscriber, RESOURCE)) {
        fprintf(stderr, "calls: CUPTI refuses\n");
        return 0;
    }
    const char *text = getenv("CALLS_FROM");
    if (text) from = strtoul(text, NULL, 10);
    text = getenv("BREAK_AT");
    if (text) break_at = strtoul(text, NULL, 10);
    atexit(report);
    return 1;
}
