/* A double of libnvidia-ml.so.1: the functions that NVIDIA's device plugin, GPU feature discovery, pynvml and a
 * DCGM-like exporter call. The others are generated from nvml.h and answer NVML_ERROR_NOT_SUPPORTED (see stubs.py).
 *
 * Everything comes from the file named by GPULEASE_NVML_DOUBLE, tab-separated, one record a line:
 *   driver <version>    cuda <number>    epoch <unix ms>    state <folder>
 *   gpu <uuid> <product> <memory MiB> <cc major> <cc minor> <architecture> <pci device id, hex> <pci bus id> <serial>
 *       <idle W> <busy W>
 * and what moves from files in the state folder, read anew at each call, so that every process sees the same world:
 *   busy      append-only, "<unix ms> <uuid> <0|1>": when work began or ended on a device. Power is constant in each
 *             state, and energy is its integral since the epoch: monotone, and equal in every process.
 *   xids      append-only, "<index> <xid>": each event set delivers each line written after its creation once.
 *   lost      uuids that answer NVML_ERROR_GPU_IS_LOST.
 *   ecc       "<uuid> <count>": uncorrected volatile errors.    recovery  "<uuid> <nvmlDeviceGpuRecoveryAction_t>".
 */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 64
#define MAX_SETS 64
#define LINE 512
#define POLL_US 50000

typedef struct {
    unsigned index, cc_major, cc_minor, arch, pci_device, idle_w, busy_w;
    unsigned long long memory_mib;
    char uuid[96], product[96], bus[32], serial[32];
} Gpu;

struct event_set {
    int used;
    long offset;
    unsigned long long wanted[MAX_GPUS];
};

static Gpu gpus[MAX_GPUS];
static unsigned gpu_count;
static char driver[80] = "570.86.15", state_dir[400];
static int cuda = 12080;
static long long epoch_ms;
static struct event_set sets[MAX_SETS];

/* ---- reading ------------------------------------------------------------------------------------------------- */

static long long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void copy(char *to, size_t size, const char *from) {
    snprintf(to, size, "%s", from ? from : "");
}

static void read_gpu(char *rest) {
    Gpu *g = &gpus[gpu_count];
    char *field[11];
    for (int i = 0; i < 11; i++)
        if (!(field[i] = strsep(&rest, "\t"))) return;
    if (gpu_count == MAX_GPUS) return;
    memset(g, 0, sizeof *g);
    g->index = gpu_count++;
    copy(g->uuid, sizeof g->uuid, field[0]);
    copy(g->product, sizeof g->product, field[1]);
    g->memory_mib = strtoull(field[2], 0, 10);
    g->cc_major = atoi(field[3]);
    g->cc_minor = atoi(field[4]);
    g->arch = atoi(field[5]);
    g->pci_device = strtoul(field[6], 0, 16);
    copy(g->bus, sizeof g->bus, field[7]);
    copy(g->serial, sizeof g->serial, field[8]);
    g->idle_w = atoi(field[9]);
    g->busy_w = atoi(field[10]);
}

static nvmlReturn_t load(void) {
    const char *path = getenv("GPULEASE_NVML_DOUBLE");
    FILE *f = path ? fopen(path, "r") : 0;
    char line[LINE];
    if (!f) return NVML_ERROR_DRIVER_NOT_LOADED;
    gpu_count = 0;
    while (fgets(line, sizeof line, f)) {
        char *rest = line, *key;
        line[strcspn(line, "\n")] = 0;
        key = strsep(&rest, "\t");
        if (!rest) continue;
        if (!strcmp(key, "driver")) copy(driver, sizeof driver, rest);
        else if (!strcmp(key, "cuda")) cuda = atoi(rest);
        else if (!strcmp(key, "epoch")) epoch_ms = atoll(rest);
        else if (!strcmp(key, "state")) copy(state_dir, sizeof state_dir, rest);
        else if (!strcmp(key, "gpu")) read_gpu(rest);
    }
    fclose(f);
    return NVML_SUCCESS;
}

static FILE *state(const char *name) {
    char path[LINE];
    snprintf(path, sizeof path, "%s/%s", state_dir, name);
    return fopen(path, "r");
}

/* The number beside uuid in a state file; 0 where the file or the line is missing. */
static long long noted(const char *name, const char *uuid) {
    char line[LINE], who[96];
    long long value = 0, found = 0;
    FILE *f = state(name);
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        value = 1;
        if (sscanf(line, "%95s %lld", who, &value) >= 1 && !strcmp(who, uuid)) found = value;
    }
    fclose(f);
    return found;
}

/* Whether the device works now; busy_ms is how long it has, since the epoch. */
static int working(const Gpu *g, long long now, long long *busy_ms) {
    char line[LINE], who[96];
    long long at, since = 0;
    int is, was = 0;
    FILE *f = state("busy");
    *busy_ms = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (!strchr(line, '\n')) break;
        if (sscanf(line, "%lld %95s %d", &at, who, &is) != 3 || strcmp(who, g->uuid) || is == was) continue;
        if (is) since = at;
        else *busy_ms += at - since;
        was = is;
    }
    if (f) fclose(f);
    if (was && now > since) *busy_ms += now - since;
    return was;
}

/* A triangle between low and high with a period of 20 s: movement that a test can compute. */
static unsigned wave(long long now, unsigned low, unsigned high) {
    long long phase = now / 1000 % 20;
    if (phase > 10) phase = 20 - phase;
    return low + (unsigned)((high - low) * phase / 10);
}

#define DEVICE(d, g)                                                     \
    const Gpu *g = (const Gpu *)(d);                                     \
    if (!g || g < gpus || g >= gpus + gpu_count) return NVML_ERROR_INVALID_ARGUMENT; \
    if (noted("lost", g->uuid)) return NVML_ERROR_GPU_IS_LOST

/* ---- library and system -------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlInit_v2(void) { return gpu_count ? NVML_SUCCESS : load(); }
nvmlReturn_t nvmlInit(void) { return nvmlInit_v2(); }
nvmlReturn_t nvmlInitWithFlags(unsigned flags) { return nvmlInit_v2(); }
nvmlReturn_t nvmlShutdown(void) { return NVML_SUCCESS; }

const char *nvmlErrorString(nvmlReturn_t r) {
    static const struct { nvmlReturn_t code; const char *words; } table[] = {
        {NVML_SUCCESS, "Success"}, {NVML_ERROR_UNINITIALIZED, "Uninitialized"},
        {NVML_ERROR_INVALID_ARGUMENT, "Invalid Argument"}, {NVML_ERROR_NOT_SUPPORTED, "Not Supported"},
        {NVML_ERROR_NOT_FOUND, "Not Found"}, {NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"},
        {NVML_ERROR_TIMEOUT, "Timeout"}, {NVML_ERROR_GPU_IS_LOST, "GPU is lost"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].code == r) return table[i].words;
    return "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) { copy(v, n, driver); return NVML_SUCCESS; }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *v, unsigned n) { snprintf(v, n, "12.%s", driver); return NVML_SUCCESS; }
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *v) { *v = cuda; return NVML_SUCCESS; }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = cuda; return NVML_SUCCESS; }

/* ---- devices ------------------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) { *n = gpu_count; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetCount(unsigned *n) { return nvmlDeviceGetCount_v2(n); }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) {
    if (i >= gpu_count) return NVML_ERROR_INVALID_ARGUMENT;
    *d = (nvmlDevice_t)&gpus[i];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *d) {
    for (unsigned i = 0; i < gpu_count; i++)
        if (!strcmp(uuid, gpus[i].uuid)) return nvmlDeviceGetHandleByIndex_v2(i, d);
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *d) {
    for (unsigned i = 0; i < gpu_count; i++)
        if (!strcasecmp(bus, gpus[i].bus) || !strcasecmp(bus, gpus[i].bus + 4)) return nvmlDeviceGetHandleByIndex_v2(i, d);
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *v, unsigned n) { DEVICE(d, g); copy(v, n, g->product); return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *v, unsigned n) { DEVICE(d, g); copy(v, n, g->uuid); return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t d, char *v, unsigned n) { DEVICE(d, g); copy(v, n, g->serial); return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t d, unsigned *v) { DEVICE(d, g); *v = g->index; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t d, unsigned *v) { DEVICE(d, g); *v = g->index; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t d, nvmlBrandType_t *v) { DEVICE(d, g); *v = NVML_BRAND_NVIDIA; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t d, nvmlDeviceArchitecture_t *v) { DEVICE(d, g); *v = g->arch; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned *v) { DEVICE(d, g); *v = 0; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t d, nvmlEnableState_t *v) { DEVICE(d, g); *v = NVML_FEATURE_ENABLED; return NVML_SUCCESS; }

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t d, int *major, int *minor) {
    DEVICE(d, g);
    *major = g->cc_major;
    *minor = g->cc_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *p) {
    DEVICE(d, g);
    memset(p, 0, sizeof *p);
    copy(p->busId, sizeof p->busId, g->bus);
    copy(p->busIdLegacy, sizeof p->busIdLegacy, g->bus + 4);
    sscanf(g->bus, "%x:%x:%x", &p->domain, &p->bus, &p->device);
    p->pciDeviceId = g->pci_device << 16 | 0x10de;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, nvmlGpuTopologyLevel_t *level) {
    *level = NVML_TOPOLOGY_NODE; /* the kubelet rejects pods (UnexpectedAdmissionError) where this fails */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *p) { DEVICE(d, g); *n = 0; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *p) { DEVICE(d, g); *n = 0; return NVML_SUCCESS; }

/* ---- what moves ---------------------------------------------------------------------------------------------- */

static unsigned long long used_mib(const Gpu *g) {
    long long ms;
    return working(g, now_ms(), &ms) ? g->memory_mib * 6 / 10 : 450;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *m) {
    DEVICE(d, g);
    m->total = g->memory_mib << 20;
    m->used = used_mib(g) << 20;
    m->free = m->total - m->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *m) {
    DEVICE(d, g);
    m->reserved = 0;
    m->total = g->memory_mib << 20;
    m->used = used_mib(g) << 20;
    m->free = m->total - m->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned *mw) {
    long long ms;
    DEVICE(d, g);
    *mw = 1000 * (working(g, now_ms(), &ms) ? g->busy_w : g->idle_w);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) {
    long long busy_ms, now = now_ms();
    DEVICE(d, g);
    working(g, now, &busy_ms);
    *mj = (unsigned long long)(now - epoch_ms) * g->idle_w + (unsigned long long)busy_ms * (g->busy_w - g->idle_w);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *u) {
    long long ms, now = now_ms();
    DEVICE(d, g);
    u->gpu = working(g, now, &ms) ? wave(now, 70, 95) : 0;
    u->memory = u->gpu / 2;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t sensor, unsigned *celsius) {
    long long ms, now = now_ms();
    DEVICE(d, g);
    *celsius = working(g, now, &ms) ? wave(now, 58, 68) : 34;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, nvmlClockType_t type, unsigned *mhz) {
    long long ms;
    DEVICE(d, g);
    if (type == NVML_CLOCK_MEM) *mhz = 1593;
    else *mhz = working(g, now_ms(), &ms) ? 1410 : 210;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long *count) {
    DEVICE(d, g);
    *count = type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED ? noted("ecc", g->uuid) : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, nvmlFieldValue_t *values) {
    DEVICE(d, g);
    for (int i = 0; i < n; i++) {
        nvmlFieldValue_t *v = &values[i];
        v->timestamp = now_ms() * 1000;
        v->latencyUsec = 0;
        v->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        if (v->fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION) {
            v->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
            v->value.uiVal = noted("recovery", g->uuid);
            v->nvmlReturn = NVML_SUCCESS;
        }
    }
    return NVML_SUCCESS;
}

/* ---- events -------------------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    FILE *f = state("xids");
    for (int i = 0; i < MAX_SETS; i++) {
        if (sets[i].used) continue;
        memset(&sets[i], 0, sizeof sets[i]);
        sets[i].used = 1;
        if (f && !fseek(f, 0, SEEK_END)) sets[i].offset = ftell(f);
        if (f) fclose(f);
        *set = (nvmlEventSet_t)&sets[i];
        return NVML_SUCCESS;
    }
    if (f) fclose(f);
    return NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    ((struct event_set *)set)->used = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t d, unsigned long long *types) {
    DEVICE(d, g);
    *types = nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeSingleBitEccError;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set) {
    DEVICE(d, g);
    ((struct event_set *)set)->wanted[g->index] |= types;
    return NVML_SUCCESS;
}

static int next_event(struct event_set *s, nvmlEventData_t *e) {
    char line[LINE];
    unsigned index;
    unsigned long long xid;
    int found = 0;
    FILE *f = state("xids");
    if (!f) return 0;
    if (fseek(f, s->offset, SEEK_SET)) { fclose(f); return 0; }
    while (!found && fgets(line, sizeof line, f) && strchr(line, '\n')) {
        s->offset = ftell(f);
        if (sscanf(line, "%u %llu", &index, &xid) != 2 || index >= gpu_count) continue;
        if (!(s->wanted[index] & nvmlEventTypeXidCriticalError)) continue;
        memset(e, 0, sizeof *e);
        e->device = (nvmlDevice_t)&gpus[index];
        e->eventType = nvmlEventTypeXidCriticalError;
        e->eventData = xid;
        e->gpuInstanceId = e->computeInstanceId = 0xffffffff;
        found = 1;
    }
    fclose(f);
    return found;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *e, unsigned timeout_ms) {
    long long until = now_ms() + timeout_ms;
    for (;;) {
        if (next_event((struct event_set *)set, e)) return NVML_SUCCESS;
        if (now_ms() >= until) return NVML_ERROR_TIMEOUT;
        usleep(POLL_US);
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *e, unsigned timeout_ms) { return nvmlEventSetWait_v2(set, e, timeout_ms); }
