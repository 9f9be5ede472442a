"""Lets PyTorch be imported without the 4 GB of CUDA libraries that its wheel for x86-64 Linux asks for.

    pip install --no-deps torch==2.9.1 && python exporter-specs/light_torch.py

The only wheel in the registry is the one for GPUs, and it cannot be loaded without them. An export computes on the CPU:
for each library that is missing, a stand-in is compiled that has its symbols, each of which reports failure. PyTorch
then finds no GPU, as on any machine without one. Where nothing is missing, nothing is done. Needs cc, nm and readelf.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CUDA = re.compile(r"lib(cu|nv|nccl)")
SYMBOL = re.compile(r" U (\w+)(?:@+(\S+))?")
# By what their unversioned symbols begin with.
OWNERS = {
    "nccl": "libnccl.",
    "cuFile": "libcufile.",
    "cusparseLt": "libcusparseLt.",
    "curand": "libcurand.",
    "nvshmem": "libnvshmem",
}


def main():
    spec = importlib.util.find_spec("torch")
    if spec is None:
        sys.exit("error: torch is not installed here: pip install --no-deps torch==2.9.1")
    folder = Path(spec.origin).parent / "lib"
    libraries = sorted(folder.glob("*.so*"))
    present = {path.name for path in [*libraries, *folder.parents[1].glob("nvidia/*/lib/*")]}
    needed = {name for path in libraries for name in needs(path) if CUDA.match(name)}
    # The driver's own library is opened only where there is a driver.
    missing = sorted(needed - present - {"libcuda.so.1"})
    versions = {pair for path in libraries for pair in versions_of(path)}
    symbols = {symbol for path in libraries for symbol in undefined(path)}
    for name in missing:
        compile_stub(folder / name, [found for found in symbols if belongs(found, name, versions)])
    print(f"torch: {len(missing)} libraries of CUDA are stand-ins" if missing else "torch: nothing is missing")


def needs(path):
    return re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", path))


def undefined(path):
    """(name, version or "") of what a library takes from CUDA's."""
    return SYMBOL.findall(run("nm", "-D", "--undefined-only", path))


def versions_of(path):
    """(version, library that defines it), as a library expects them."""
    found, library = [], None
    for line in run("readelf", "-V", path).splitlines():
        if file := re.search(r"File: (\S+)", line):
            library = file[1]
        elif name := re.search(r"Name: (\S+)", line):
            found.append((name[1], library))
    return found


def belongs(symbol, library, versions):
    name, version = symbol
    if version:
        return (version, library) in versions
    owners = [owner for prefix, owner in OWNERS.items() if name.startswith(prefix)]
    return bool(owners) and library.startswith(owners[0])


def compile_stub(path, symbols):
    body = "\n".join(f"int {name}(void) {{ return 1; }}" for name, _ in sorted(symbols)) + "\n"
    versions = {version for _, version in symbols if version}
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder) / "stub.c", Path(folder) / "versions"
        source.write_text(body)
        script.write_text("".join(f"{version} {{ *; }};\n" for version in versions))
        partial = path.with_name(f".{path.name}.partial")
        options = ["-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-w"]
        options += [f"-Wl,--version-script,{script}"] if versions else []
        subprocess.run(["cc", *options, "-o", partial, source], check=True)
        os.replace(partial, path)


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
