"""A driver library made up for tests: the real NVML binding loads it and finds GPUs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# NVML as far as the inventory asks for it. FAKE_INIT and FAKE_COUNT are its answers; FAKE_LOST is a GPU that fell off
# the bus and FAKE_MUTE one that does not tell its memory.
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
typedef struct { unsigned long long total, free, used; } memory_t;
static int number(const char *name, int other) { char *text = getenv(name); return text ? atoi(text) : other; }
int nvmlInitWithFlags(unsigned flags) { return number("FAKE_INIT", 0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "made up"; }
int nvmlDeviceGetCount_v2(unsigned *count) {
  int n = number("FAKE_COUNT", 2);
  *count = n < 0 ? 0 : n;
  return n < 0 ? -n : 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(long)(index + 1);
  return (int)index == number("FAKE_LOST", -1) ? 15 : 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  snprintf(text, size, "GPU-%08lx-0000-0000-0000-000000000000", (long)device);
  return 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned size) { snprintf(text, size, "Made-up 80GB"); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
  memory->total = 80ULL << 30;
  return (long)device - 1 == number("FAKE_MUTE", -1) ? 3 : 0;
}
"""


def build_driver(folder: Path) -> Path:
    """Compile the library into `folder`, to be put on LD_LIBRARY_PATH."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc to build the made-up driver library")
    (folder / "fake.c").write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "fake.c")]
    subprocess.run(command, check=True)
    return folder
