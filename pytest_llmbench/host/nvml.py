"""
What NVML says about the GPUs: which there are, what is on them, and how they fare.

Free of torch, so that the pytest side can lease GPUs with it. A figure that NVML does not give is
None, and `missing` has the reason under its name: one refused call never costs another its answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

__all__ = ["NO_PERMISSION", "Gpu", "GpuReading", "MigUnsupported", "Nvml", "NvmlUnavailable", "Occupancy", "open_nvml"]

NO_PERMISSION: Final = 4
_NOT_SUPPORTED: Final = 3
_DRIVER_NOT_LOADED: Final = 9
_LIBRARY_NOT_FOUND: Final = 12
_FUNCTION_NOT_FOUND: Final = 13
_VERSION_MISMATCH: Final = 18

_START_FAILURES = {
    NO_PERMISSION: "NVML may not be used: this user has no access to /dev/nvidiactl; ask for it, or run as one who has",
    _DRIVER_NOT_LOADED: "the NVIDIA kernel driver is not loaded; `nvidia-smi` on the host has to work first",
    _LIBRARY_NOT_FOUND: (
        "libnvidia-ml.so.1 is not to be found: no NVIDIA driver is installed, "
        "or the container was started without its GPUs (`docker run --gpus all`)"
    ),
    _VERSION_MISMATCH: (
        "the NVIDIA driver was upgraded under the running system, so that its library and its kernel module "
        "differ; reboot, or reload the module"
    ),
}

# Part of NVML's binary interface. Bindings before 12.575 have no names for the last three fields,
# and drivers that old answer that they do not support them.
_SM_CLOCK: Final = 1
_MEMORY_CLOCK: Final = 2
_GPU_TEMPERATURE: Final = 0
_POWER_CAP_FIELD: Final = 74
_SW_THERMAL_FIELD: Final = 269
_HW_THERMAL_FIELD: Final = 270
_HW_POWER_BRAKE_FIELD: Final = 271
_VALUE_BY_TYPE = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class NvmlUnavailable(RuntimeError):
    """NVML, or one thing asked of it, is not to be had; the message says why and what to do."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """NVML's return value; None where NVML did not get as far as one."""


class MigUnsupported(NvmlUnavailable):
    """A GPU split by MIG: NVML gives power, energy and clocks of the whole card only, which would be wrong of a slice."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One physical GPU. The UUID is its identity; every index depends on who counts."""

    index: int
    """NVML's: ascending PCI bus address, whatever CUDA_VISIBLE_DEVICES says."""
    uuid: str
    """As CUDA_VISIBLE_DEVICES takes it: `GPU-` and 32 hexadecimal digits in five groups."""
    name: str
    total_memory_bytes: int | None
    """Driver-reserved part included; None where the GPU has no memory of its own."""
    driver: str
    mig: bool
    """Split by MIG."""


class Occupancy(msgspec.Struct, frozen=True, kw_only=True):
    """What is on one GPU at one moment, and whose it is."""

    used_bytes: int | None = None
    """Allocated by all processes; what the driver keeps is in it only if `driver_reserved_bytes` is None."""
    driver_reserved_bytes: int | None = None
    total_bytes: int | None = None
    process_bytes: dict[int, int | None] | None = None
    """
    Memory by PID, None where NVML does not say. The PIDs can be those of the host, of which none means
    anything inside a container, and the list can be empty there although the GPU is in use.
    """
    missing: dict[str, str] = {}
    """Field name to the reason why it is None."""


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """
    How one GPU fares at one moment.

    The `_ns` fields accumulate since the driver was loaded; only their difference means anything.
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_watts: float | None = None
    """Mean of the last second on most GPUs since Ampere, not an instant."""
    power_limit_watts: float | None = None
    temperature_celsius: int | None = None
    power_cap_ns: int | None = None
    """Time in which software power capping held the clocks down."""
    sw_thermal_ns: int | None = None
    hw_thermal_ns: int | None = None
    hw_power_brake_ns: int | None = None
    missing: dict[str, str] = {}
    """Field name to the reason why it is None."""


@contextlib.contextmanager
def open_nvml() -> Iterator[Nvml]:
    """
    A session with the driver, closed on exit. Open it in the process that reads: it does not outlive a fork.

    Raises:
        NvmlUnavailable: no library, no driver, no permission, no GPU.
    """
    try:
        import pynvml
    except ImportError:
        raise NvmlUnavailable("nvidia-ml-py is not installed; `pip install nvidia-ml-py`") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        reason = _START_FAILURES.get(error.value, f"NVML does not start: {error}")
        raise NvmlUnavailable(reason, error.value) from None
    try:
        yield Nvml(pynvml)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


class Nvml:
    """An open session; made by `open_nvml`."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        self._handles: dict[str, Any] = {}
        self.num_gpus: int = self._call("nvmlDeviceGetCount")
        """GPUs of the machine or container, whatever CUDA_VISIBLE_DEVICES says."""
        if self.num_gpus == 0:
            raise NvmlUnavailable("the NVIDIA driver runs but has no GPU; `nvidia-smi -L` has to list one")

    def gpu(self, index: int) -> Gpu:
        """
        The GPU with this NVML index.

        Raises:
            NvmlUnavailable: it cannot be opened or does not answer; `code` is `NO_PERMISSION` where this
                user may not open it, and then it does not exist for CUDA either.
        """
        try:
            handle = self._call("nvmlDeviceGetHandleByIndex", index)
            uuid = self._call("nvmlDeviceGetUUID", handle)
            self._handles[uuid] = handle
            return Gpu(
                index=index,
                uuid=uuid,
                name=self._call("nvmlDeviceGetName", handle),
                total_memory_bytes=self._memory(uuid)[0].get("total_bytes"),
                driver=self._call("nvmlSystemGetDriverVersion"),
                mig=self._mig(uuid),
            )
        except NvmlUnavailable as error:
            advice = "reset it, or leave it out through CUDA_VISIBLE_DEVICES"
            raise NvmlUnavailable(f"GPU {index} does not answer: {error}; {advice}", error.code) from None

    def occupancy(self, gpu: Gpu) -> Occupancy:
        """Takes below 0.1 ms. Not a peak: NVML keeps none."""
        memory, missing = self._memory(gpu.uuid)
        processes, reasons = _collect({"process_bytes": lambda: self._processes(gpu.uuid)})
        return Occupancy(**memory, **processes, missing=missing | reasons)

    def reading(self, gpu: Gpu) -> GpuReading:
        """Takes 1 ms, nearly all of it for `hw_thermal_ns`."""
        values, missing = _collect(
            {
                "sm_clock_mhz": lambda: self._ask(gpu.uuid, "nvmlDeviceGetClockInfo", _SM_CLOCK),
                "memory_clock_mhz": lambda: self._ask(gpu.uuid, "nvmlDeviceGetClockInfo", _MEMORY_CLOCK),
                "power_watts": lambda: self._ask(gpu.uuid, "nvmlDeviceGetPowerUsage") / 1000,
                "power_limit_watts": lambda: self._ask(gpu.uuid, "nvmlDeviceGetEnforcedPowerLimit") / 1000,
                "temperature_celsius": lambda: self._temperature(gpu.uuid),
                "power_cap_ns": lambda: self._field(gpu.uuid, _POWER_CAP_FIELD),
                "sw_thermal_ns": lambda: self._field(gpu.uuid, _SW_THERMAL_FIELD),
                "hw_thermal_ns": lambda: self._field(gpu.uuid, _HW_THERMAL_FIELD),
                "hw_power_brake_ns": lambda: self._field(gpu.uuid, _HW_POWER_BRAKE_FIELD),
            }
        )
        return GpuReading(**values, missing=missing)

    def energy_millijoules(self, gpu: Gpu) -> int:
        """
        The whole card's energy since the driver was loaded. Takes 2 to 5 ms and moves every 100 ms.

        Raises:
            NvmlUnavailable: this GPU has no such counter.
        """
        energy: int = self._ask(gpu.uuid, "nvmlDeviceGetTotalEnergyConsumption")
        return energy

    def compute_capability(self, gpu: Gpu) -> tuple[int, int]:
        """
        Major and minor, as CUDA has it.

        Raises:
            NvmlUnavailable: it does not say.
        """
        major, minor = self._ask(gpu.uuid, "nvmlDeviceGetCudaComputeCapability")
        return major, minor

    def _call(self, name: str, *arguments: object) -> Any:
        function = getattr(self._binding, name, None)
        if function is None:
            raise NvmlUnavailable(f"the installed nvidia-ml-py has no {name}; upgrade it", _FUNCTION_NOT_FOUND)
        try:
            return function(*arguments)
        except self._binding.NVMLError as error:
            raise NvmlUnavailable(f"{name}: {error}", error.value) from None
        except UnicodeDecodeError:
            raise NvmlUnavailable(f"{name}: its answer is not UTF-8") from None

    def _ask(self, uuid: str, name: str, *arguments: object) -> Any:
        handle = self._handles.get(uuid)
        if handle is None:
            handle = self._handles[uuid] = self._call("nvmlDeviceGetHandleByUUID", uuid)
        return self._call(name, handle, *arguments)

    def _mig(self, uuid: str) -> bool:
        try:
            current, _pending = self._ask(uuid, "nvmlDeviceGetMigMode")
        except NvmlUnavailable as error:
            if not _is_absent(error):
                raise
            return False
        return bool(current)

    def _memory(self, uuid: str) -> tuple[dict[str, Any], dict[str, str]]:
        function = "nvmlDeviceGetMemoryInfo"
        try:
            memory = self._ask(uuid, function, self._binding.nvmlMemory_v2)
        except NvmlUnavailable as refusal:
            try:
                memory = self._ask(uuid, function)
            except NvmlUnavailable as error:
                return {}, dict.fromkeys(("used_bytes", "driver_reserved_bytes", "total_bytes"), str(error))
            reason = f"NVML counts it as used here, for lack of {function}_v2 ({refusal})"
            return {"used_bytes": memory.used, "total_bytes": memory.total}, {"driver_reserved_bytes": reason}
        return {
            "used_bytes": memory.used,
            "driver_reserved_bytes": memory.reserved,
            "total_bytes": memory.total,
        }, {}

    def _processes(self, uuid: str) -> dict[int, int | None]:
        listed: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics", "MPSCompute"):
            try:
                entries = self._ask(uuid, f"nvmlDeviceGet{kind}RunningProcesses_v3")
            except NvmlUnavailable as error:
                # A GPU without graphics or MPS has no such processes; without the compute list nothing is known.
                if kind == "Compute" or not _is_absent(error):
                    raise
                continue
            for entry in entries:
                # One process can be in several lists, with all its memory in each.
                known = [used for used in (listed.get(entry.pid), entry.usedGpuMemory) if used is not None]
                listed[entry.pid] = max(known, default=None)
        return listed

    def _temperature(self, uuid: str) -> int:
        try:
            celsius: int = self._ask(uuid, "nvmlDeviceGetTemperatureV", _GPU_TEMPERATURE)
        except NvmlUnavailable as error:
            if not _is_absent(error):
                raise
            # Its predecessor: all that drivers before 570 have, and gone with CUDA 14.
            celsius = self._ask(uuid, "nvmlDeviceGetTemperature", _GPU_TEMPERATURE)
        return celsius

    def _field(self, uuid: str, field: int) -> int:
        (answer,) = self._ask(uuid, "nvmlDeviceGetFieldValues", [field])
        if answer.nvmlReturn != 0:
            raise NvmlUnavailable(
                f"NVML field {field}: {self._binding.NVMLError(answer.nvmlReturn)}", answer.nvmlReturn
            )
        if answer.valueType >= len(_VALUE_BY_TYPE):
            raise NvmlUnavailable(f"NVML field {field}: its value is of type {answer.valueType}, which is not known")
        return int(getattr(answer.value, _VALUE_BY_TYPE[answer.valueType]))


def _is_absent(error: NvmlUnavailable) -> bool:
    """The GPU or the driver has no such thing at all, as opposed to a failure to say."""
    return error.code in (_NOT_SUPPORTED, _FUNCTION_NOT_FOUND)


def _collect(reads: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that could be read, and the reasons of those that could not, by name."""
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, read in reads.items():
        try:
            values[name] = read()
        except NvmlUnavailable as error:
            missing[name] = str(error)
    return values, missing
