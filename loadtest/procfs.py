"""What Linux accounts to a process: its children, CPU time and memory.

A process that has gone reads as nothing (None or an empty answer): it may go at any moment.
Source: proc(5).
"""

import os
from pathlib import Path
from typing import Final

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def child_pids(pid: int) -> list[int]:
    """List a process's living children, ascending."""
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if fields is not None and int(fields[1]) == pid and fields[0] != "Z":
                children.append(int(entry.name))
    return sorted(children)


def is_running(pid: int) -> bool:
    """Tell whether a process still holds anything; one that waits to be reaped does not."""
    fields = _stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still after SIGSTOP, or is gone."""
    fields = _stat_fields(pid)
    return fields is None or fields[0] in "TZX"


def command_line(pid: int) -> list[str]:
    """Give a process's arguments, the program first."""
    try:
        packed = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [argument.decode(errors="replace") for argument in packed.split(b"\0")[:-1]]


def cpu_seconds(pid: int) -> float | None:
    """Tell the user and system time of a process and of the children that it has waited for."""
    fields = _stat_fields(pid)
    if fields is None:
        return None
    user, system, children_user, children_system = map(int, fields[11:15])
    return (user + system + children_user + children_system) / _TICKS_A_SECOND


def resident_bytes(pid: int) -> int | None:
    """Tell how much of a process is in memory now."""
    return _status_bytes(pid, "VmRSS")


def resident_bytes_max(pid: int) -> int | None:
    """Tell the most that was in memory since the start, or since `reset_resident_max`."""
    return _status_bytes(pid, "VmHWM")


def reset_resident_max(pid: int) -> None:
    """Make `resident_bytes_max` start anew from what is in memory now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_bytes(pid: int, field: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _stat_fields(pid: int) -> list[str] | None:
    """Give the fields of /proc/<pid>/stat behind the program's name; the first is the state."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()
