"""With what a sandbox is started: the interpreter, the paths that programs can read, a clean environment."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
_LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from aspo_megatron.rewards.programs.jail.init import main; del sys.path[0]; main()"
)
# One thread of linear algebra, and sets in the same order in every run.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "",
    "HOME": "/aspo-sandbox",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
}
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")


def command(settings: str) -> list[str]:
    """The command that starts a sandbox with settings in JSON (`jail.init.Settings`)."""
    interpreter = str(Path(sys.executable).resolve())
    package_root = str(Path(__file__).resolve().parents[3])
    return [interpreter, *_FLAGS, "-c", _LAUNCH, package_root, settings]


def environment() -> dict[str, str]:
    """Nothing of this process's environment but where libraries are."""
    libraries = os.pathsep.join(_library_folders())
    return _ENVIRONMENT | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


def readable_paths(packages: list[str]) -> list[str]:
    """The system's and the interpreter's libraries, and the folders of packages."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    interpreter = [f"{prefix}/{name}" for prefix in sorted(prefixes) for name in ("lib", "lib64")]
    return _existing([*_SYSTEM, *interpreter, *_library_folders(), *packages])


def package_folders() -> list[str]:
    """Where the packages are that are installed beside this one."""
    paths = sysconfig.get_paths()
    return _existing([paths["purelib"], paths["platlib"]])


def _library_folders() -> list[str]:
    return [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if os.path.isabs(path)]


def _existing(paths: list[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]
