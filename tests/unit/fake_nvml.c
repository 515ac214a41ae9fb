/*
 * A stand-in for libnvidia-ml.so.1, so that the real binding can be run against any machine one can think of.
 *
 * Every value is a function of the GPU's index. The environment says what differs:
 *   FAKE_NVML_GPUS       how many there are; 1 if unset
 *   FAKE_NVML_FAIL       "call=code" or "call@index=code", comma-separated: that call returns that error;
 *                        for a field, "field74=code"
 *   FAKE_NVML_FAIL_ONCE  path of a file without which nothing fails yet
 *   FAKE_NVML_MIG        index of the GPU that is split
 *   FAKE_NVML_OTHER      index of the GPU that is another model
 *   FAKE_NVML_NAME       name of every GPU, in whatever bytes
 *   FAKE_NVML_TYPE       type that every field says its value has
 *   FAKE_NVML_PROCESSES  "list:index:pid:bytes", comma-separated; list is Compute, Graphics or MPSCompute,
 *                        pid can be "self", bytes "unknown"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, MAX_GPUS = 16, MAX_PROCESSES = 16 };
#define MIB (1024ull * 1024)
#define TOTAL (143771 * MIB)
#define RESERVED (614 * MIB)

typedef struct { int index; } *Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned version, sensor; int celsius; } Temperature;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type;
    int code;
    union { double real; unsigned small; unsigned long long large; } value;
} Field;

static struct { int index; } devices[MAX_GPUS];

static int number(const char *variable, int otherwise) {
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

/* What FAKE_NVML_FAIL says of this call on this GPU (-1: of no GPU). */
static int failure(const char *call, int index) {
    const char *rule = getenv("FAKE_NVML_FAIL"), *once = getenv("FAKE_NVML_FAIL_ONCE");
    char name[80];
    int where, code;
    if (once && access(once, F_OK))
        return SUCCESS;
    for (; rule && *rule; rule = strchr(rule, ',') ? strchr(rule, ',') + 1 : "") {
        if (sscanf(rule, "%79[^=@,]@%d=%d", name, &where, &code) == 3 && !strcmp(name, call) && where == index)
            return code;
        if (sscanf(rule, "%79[^=@,]=%d", name, &code) == 2 && !strcmp(name, call))
            return code;
    }
    return SUCCESS;
}

#define FAIL_IF_ASKED(index) \
    do { \
        int asked_for = failure(__func__, (index)); \
        if (asked_for) \
            return asked_for; \
    } while (0)

/* An entry point that gives one number of one GPU. */
#define GIVES(name, parameters, type, value) \
    int name parameters { \
        FAIL_IF_ASKED(device->index); \
        *result = (type)(value); \
        return SUCCESS; \
    }

static void uuid_of(int index, char *uuid, unsigned size) {
    /* The first eight digits differ in the last one only, so that prefixes can be too short. */
    snprintf(uuid, size, "GPU-f000000%x-0000-4000-8000-%012x", index, index);
}

int nvmlInitWithFlags(unsigned flags) {
    FAIL_IF_ASKED(-1);
    for (int index = 0; index < MAX_GPUS; index++)
        devices[index].index = index;
    return flags ? NOT_SUPPORTED : SUCCESS;
}

int nvmlShutdown(void) { return failure(__func__, -1); }

const char *nvmlErrorString(int code) { return code == 28 ? "GPU not found" : "an error of the fake library"; }

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    FAIL_IF_ASKED(-1);
    snprintf(version, size, "580.159.04");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    FAIL_IF_ASKED(-1);
    *count = number("FAKE_NVML_GPUS", 1);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    FAIL_IF_ASKED((int)index);
    *device = (Device)&devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) {
    FAIL_IF_ASKED(-1);
    for (int index = 0; index < number("FAKE_NVML_GPUS", 1); index++) {
        char known[96];
        uuid_of(index, known, sizeof known);
        if (!strcmp(known, uuid)) {
            *device = (Device)&devices[index];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned size) {
    FAIL_IF_ASKED(device->index);
    uuid_of(device->index, uuid, size);
    return SUCCESS;
}

int nvmlDeviceGetName(Device device, char *name, unsigned size) {
    FAIL_IF_ASKED(device->index);
    const char *given = getenv("FAKE_NVML_NAME");
    const char *known = device->index == number("FAKE_NVML_OTHER", -1) ? "NVIDIA T400" : "NVIDIA H200";
    snprintf(name, size, "%s", given ? given : known);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
    FAIL_IF_ASKED(device->index);
    *current = *pending = device->index == number("FAKE_NVML_MIG", -1);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    FAIL_IF_ASKED(device->index);
    unsigned long long used = RESERVED + (3 + device->index) * MIB;
    *memory = (Memory){TOTAL, TOTAL - used, used};
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2 *memory) {
    FAIL_IF_ASKED(device->index);
    unsigned long long used = (3 + device->index) * MIB;
    *memory = (MemoryV2){memory->version, TOTAL, RESERVED, TOTAL - RESERVED - used, used};
    return SUCCESS;
}

GIVES(nvmlDeviceGetClockInfo, (Device device, int clock, unsigned *result), unsigned, clock == 1 ? 1980 : 3201)
GIVES(nvmlDeviceGetPowerUsage, (Device device, unsigned *result), unsigned, 654321)
GIVES(nvmlDeviceGetEnforcedPowerLimit, (Device device, unsigned *result), unsigned, 700000)
GIVES(nvmlDeviceGetTemperature, (Device device, int sensor, unsigned *result), unsigned, sensor == 0 ? 62 : 0)
GIVES(nvmlDeviceGetTotalEnergyConsumption, (Device device, unsigned long long *result), unsigned long long, 5e12)

int nvmlDeviceGetTemperatureV(Device device, Temperature *temperature) {
    FAIL_IF_ASKED(device->index);
    temperature->celsius = 62;
    return SUCCESS;
}

/* Field n advances by n milliseconds with every reading of it. */
int nvmlDeviceGetFieldValues(Device device, int count, Field *fields) {
    static unsigned long long reads[MAX_GPUS][512];
    FAIL_IF_ASKED(device->index);
    for (Field *field = fields; field < fields + count; field++) {
        char name[32];
        snprintf(name, sizeof name, "field%u", field->field);
        field->code = failure(name, device->index);
        field->type = number("FAKE_NVML_TYPE", 3);
        field->value.large = ++reads[device->index][field->field] * field->field * 1000000;
    }
    return SUCCESS;
}

static int processes(const char *list, Device device, unsigned *count, Process *listed) {
    const char *entry = getenv("FAKE_NVML_PROCESSES");
    Process found[MAX_PROCESSES];
    unsigned capacity = *count;
    *count = 0;
    for (; entry && *entry; entry = strchr(entry, ',') ? strchr(entry, ',') + 1 : "") {
        char kind[16], pid[16], used[32];
        int index;
        if (sscanf(entry, "%15[^:]:%d:%15[^:]:%31[^,]", kind, &index, pid, used) != 4)
            abort();
        if (index == device->index && !strcmp(kind, list))
            found[(*count)++] = (Process){
                strcmp(pid, "self") ? (unsigned)atoi(pid) : (unsigned)getpid(),
                strcmp(used, "unknown") ? strtoull(used, NULL, 10) : ~0ull,
                ~0u, ~0u,
            };
    }
    if (*count > capacity)
        return INSUFFICIENT_SIZE;
    if (*count)
        memcpy(listed, found, *count * sizeof *found);
    return SUCCESS;
}

#define LISTS(name, list) \
    int name(Device device, unsigned *count, Process *listed) { \
        FAIL_IF_ASKED(device->index); \
        return processes(list, device, count, listed); \
    }

LISTS(nvmlDeviceGetComputeRunningProcesses_v3, "Compute")
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v3, "Graphics")
LISTS(nvmlDeviceGetMPSComputeRunningProcesses_v3, "MPSCompute")
