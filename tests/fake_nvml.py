"""A driver library made up for tests: the real NVML binding loads it and finds the GPUs that a test tells of.

What it answers stands in a file that it reads again at each call, so a test may change it while a worker runs.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

GIB = 1 << 30
STATE = "FAKE_NVML_STATE"

# Lines of the state are "key value": "count 2", "GPU.field number", "GPU.process PID BYTES" (any number of lines),
# "error.CALL CODE" or "error.CALL.GPU CODE", "sleep.CALL SECONDS". A slice is GPU*100+100+number: GPU 0 has 100, 101…
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory2_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; u64 memory; unsigned instance, compute; } process_t;

static long long said(const char *key, long long other) {
  const char *path = getenv("FAKE_NVML_STATE");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[256], name[128];
  long long value;
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "%127s %lld", name, &value) == 2 && !strcmp(name, key)) other = value;
  if (file) fclose(file);
  return other;
}
static long long of(long device, const char *field, long long other) {
  char key[64];
  snprintf(key, sizeof key, "%ld.%s", device, field);
  return said(key, other);
}
static int call(const char *name, long device) {
  char key[128];
  snprintf(key, sizeof key, "sleep.%s", name);
  long long seconds = said(key, 0);
  if (seconds) sleep(seconds);
  snprintf(key, sizeof key, "error.%s", name);
  long long code = said(key, 0);
  snprintf(key, sizeof key, "error.%s.%ld", name, device);
  return said(key, code);
}
#define CALL(name, device) { int code = call(name, device); if (code) return code; }
#define ID(device) ((long)(device) - 1)

int nvmlInitWithFlags(unsigned flags) {
  if (!getenv("FAKE_NVML_STATE")) return 12; // as if it were not there
  CALL("Init", -1)
  return 0;
}
int nvmlShutdown(void) { CALL("Shutdown", -1) return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "made up"; }
int nvmlDeviceGetCount_v2(unsigned *count) { CALL("Count", -1) *count = said("count", 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  CALL("Handle", index)
  *device = (void *)(long)(index + 1);
  return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  CALL("UUID", ID(device))
  const char *kind = ID(device) >= 100 ? "MIG" : "GPU";
  snprintf(text, size, "%s-%08lx-0000-0000-0000-000000000000", kind, (long)device);
  return 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
  CALL("Name", ID(device))
  snprintf(text, size, ID(device) >= 100 ? "Made-up 80GB MIG 1g.10gb" : "Made-up 80GB");
  return 0;
}
static u64 total(void *device) { return of(ID(device), "total", (ID(device) >= 100 ? 10LL : 80LL) << 30); }
static u64 used(void *device) { return of(ID(device), "used", 0); }
static u64 kept(void *device) { return of(ID(device), "reserved", 0); }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
  CALL("Memory", ID(device))
  *memory = (memory_t){total(device), total(device) - used(device) - kept(device), used(device) + kept(device)};
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) {
  CALL("Utilization", ID(device))
  *rates = (rates_t){of(ID(device), "utilisation", 0), 0};
  return ID(device) >= 100 ? 3 : 0;
}
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *degrees) {
  CALL("Temperature", ID(device))
  *degrees = of(ID(device), "temperature", 40);
  return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  CALL("Power", ID(device))
  *milliwatts = of(ID(device), "milliwatts", 60000);
  return 0;
}
static int processes(void *device, unsigned *count, process_t *list) {
  CALL("Processes", ID(device))
  const char *path = getenv("FAKE_NVML_STATE");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[256], name[128], wanted[64];
  unsigned found = 0, room = *count, pid;
  u64 bytes;
  snprintf(wanted, sizeof wanted, "%ld.process", ID(device));
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "%127s %u %llu", name, &pid, &bytes) == 3 && !strcmp(name, wanted)) {
      if (list && found < room) list[found] = (process_t){pid, bytes, 0, 0};
      found++;
    }
  if (file) fclose(file);
  *count = found;
  return found > (list ? room : 0) ? 7 : 0;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, process_t *list) {
  return processes(device, count, list);
}
#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(void *device, memory2_t *memory) {
  CALL("Memory", ID(device))
  u64 left = total(device) - used(device) - kept(device);
  *memory = (memory2_t){memory->version, total(device), kept(device), left, used(device)};
  return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *list) {
  return processes(device, count, list);
}
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) {
  CALL("MigMode", ID(device))
  long long slices = of(ID(device), "slices", -1);
  *now = *later = slices >= 0;
  return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
  if ((long long)index >= of(ID(device), "slices", -1)) return 6;
  *slice = (void *)((ID(device) + 1) * 100 + index + 1);
  return 0;
}
#endif
"""


class FakeDriver:
    """The library in a folder of its own, and what it tells now."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Compile it; ``-DOLD`` leaves out what drivers of some years ago do not have."""
        compiler = shutil.which("gcc")
        if compiler is None:
            pytest.skip("needs gcc to build the made-up driver library")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fake.c").write_text(DRIVER)
        self._library = folder / "libnvidia-ml.so.1"
        output = ["-Wl,-soname,libnvidia-ml.so.1", "-o", str(self._library), str(folder / "fake.c")]
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", *options, *output], check=True)
        self._state = folder / "state"
        self.environ = {"LD_LIBRARY_PATH": str(folder), STATE: str(self._state)}
        self.tell({})

    def load(self) -> None:
        """Let the binding find it in this process, whose search path cannot be changed any more."""
        ctypes.CDLL(str(self._library))

    def tell(
        self, facts: Mapping[str, int] | None = None, *, processes: Mapping[int, Mapping[int, int]] = {}
    ) -> None:
        """Let it answer this from now on, and nothing that it was told before; `processes`: GPU → pid → bytes."""
        lines = [f"{key} {value}" for key, value in (facts or {}).items()]
        lines += [f"{gpu}.process {pid} {size}" for gpu, found in processes.items() for pid, size in found.items()]
        fresh = self._state.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self._state)


def uuid_of(number: int) -> str:
    """The UUID of a made-up GPU, or of a slice."""
    return f"{'MIG' if number >= 100 else 'GPU'}-{number + 1:08x}-0000-0000-0000-000000000000"
