"""Writes what a package must say of others' work: THIRD-PARTY-NOTICES.txt and sbom.cdx.json (CycloneDX 1.5).

usage: python3 packaging/dependencies.py TARGET FOLDER EPOCH_SECONDS RUST_VERSION [ONNXRUNTIME_FOLDER]

What is told is what cargo links for that target, Rust's standard library, and ONNX Runtime where it is packaged. What only
builds or tests is no part of it. Needs nothing but the packages that cargo has fetched.
"""

import datetime
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ["safelight-cli", "safelight-capi"]
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


def main() -> None:
    target, folder, epoch, rust, *onnxruntime = sys.argv[1:]
    packages = linked(target)
    library = pathlib.Path(onnxruntime[0]) if onnxruntime else None
    write(pathlib.Path(folder, "THIRD-PARTY-NOTICES.txt"), notices(packages, rust, library))
    bill = bill_of_materials(packages, rust, library, int(epoch))
    write(pathlib.Path(folder, "sbom.cdx.json"), json.dumps(bill, indent=1, ensure_ascii=False) + "\n")


def write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def cargo(*arguments: str) -> str:
    return subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def linked(target: str) -> list[dict]:
    """Packages that end up in our binaries, ours among them, with `needs`: the ids of those that each one links.

    `cargo tree` knows which features are on for whom; `cargo metadata` knows the rest."""
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--locked", "--filter-platform", target))
    ours = [argument for name in OURS for argument in ("-p", name)]
    tree = cargo("tree", "--locked", "--target", target, "-e", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe",
                 "--format", "{p}", *ours)
    named = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    found = {package["id"]: package for package in metadata["packages"]
             if (package["name"], "v" + package["version"]) in named}
    if len(found) != len(named):
        sys.exit(f"error: cargo tree names {len(named)} packages for {target}, and cargo metadata knows {len(found)} of them")
    sums = checksums()
    for node in metadata["resolve"]["nodes"]:
        if package := found.get(node["id"]):
            normal = [need["pkg"] for need in node["deps"] if any(kind["kind"] is None for kind in need["dep_kinds"])]
            package["needs"] = sorted(need for need in normal if need in found)
            package["sha256"] = sums.get((package["name"], package["version"]))
    return sorted(found.values(), key=lambda package: (package["name"], package["version"]))


def checksums() -> dict[tuple[str, str], str]:
    lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    entry = re.compile(r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "([0-9a-f]{64})"')
    return {(name, version): sha256 for name, version, sha256 in entry.findall(lock)}


def expression(package: dict) -> str:
    """The licence as SPDX has it; older manifests separate alternatives by a slash."""
    return re.sub(r"\s*/\s*", " OR ", package["license"])


def notices(packages: list[dict], rust: str, library: pathlib.Path | None) -> str:
    """Every foreign package with its licence, then the texts, each once with those that it comes from."""
    foreign = [package for package in packages if package["source"]]
    lines = ["safelight is made with the work of others. What its binaries hold of them, and under which licences:", ""]
    lines += [f"{package['name']} {package['version']}: {expression(package)}"
              + (f", {package['repository']}" if package["repository"] else "") for package in foreign]
    lines.append(f"The Rust standard library {rust}: MIT OR Apache-2.0, https://www.rust-lang.org")
    texts: dict[str, tuple[str, list[str]]] = {}
    for package in foreign:
        files = licence_files(pathlib.Path(package["manifest_path"]).parent)
        if not files:
            sys.exit(f"error: {package['name']} {package['version']} comes without the text of its licence")
        for file in files:
            text = file.read_text(encoding="utf-8").replace("\r\n", "\n").strip()
            # The same licence is broken into lines in many ways.
            texts.setdefault(" ".join(text.split()), (text, []))[1].append(f"{package['name']} {package['version']}")
    # Chosen of the two: its text is what our own licence has.
    own = (ROOT / "LICENSE").read_text(encoding="utf-8").strip()
    texts.setdefault(" ".join(own.split()), (own, []))[1].append(f"the Rust standard library {rust}")
    for text, users in texts.values():
        lines += ["", "=" * 100, ", ".join(dict.fromkeys(users)) + ":", "", text]
    if library:
        version = (library / "VERSION").read_text(encoding="utf-8").strip()
        lines += ["", "=" * 100, f"ONNX Runtime {version}, lib/safelight/libonnxruntime.so (what that is made with is told in "
                  "onnxruntime-notices.txt):", "", (library / "LICENSE").read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


def licence_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and LICENCE_FILE.match(path.name))


def bill_of_materials(packages: list[dict], rust: str, library: pathlib.Path | None, epoch: int) -> dict:
    """The software bill of materials, the same for the same packages and time."""
    ours = next(package for package in packages if package["name"] == OURS[0])
    components = [component(package) for package in packages if package is not ours]
    components.append({
        "type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": rust,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    })
    needs = [{"ref": reference(package), "dependsOn": [reference_of(need, packages) for need in package["needs"]]}
             for package in packages]
    top = next(entry for entry in needs if entry["ref"] == reference(ours))
    top["dependsOn"].append("rust-std")
    if library:
        components.append(onnxruntime(library))
        top["dependsOn"].append(components[-1]["bom-ref"])
    bill = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**component(ours), "type": "application", "name": "safelight"},
        },
        "components": components,
        "dependencies": needs,
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bill, sort_keys=True))
    return {"bomFormat": bill.pop("bomFormat"), "specVersion": bill.pop("specVersion"), "serialNumber": f"urn:uuid:{serial}",
            **bill}


def component(package: dict) -> dict:
    made = {
        "type": "library", "bom-ref": reference(package), "name": package["name"], "version": package["version"],
        "licenses": [{"expression": expression(package)}],
    }
    if package["source"]:
        made["purl"] = reference(package)
    if package["sha256"]:
        made["hashes"] = [{"alg": "SHA-256", "content": package["sha256"]}]
    return made


def reference(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def reference_of(identity: str, packages: list[dict]) -> str:
    return next(reference(package) for package in packages if package["id"] == identity)


def onnxruntime(library: pathlib.Path) -> dict:
    version = (library / "VERSION").read_text(encoding="utf-8").strip()
    content = hashlib.sha256((library / "libonnxruntime.so").read_bytes()).hexdigest()
    purl = f"pkg:pypi/onnxruntime@{version}"
    return {
        "type": "library", "bom-ref": purl, "name": "onnxruntime", "version": version, "purl": purl,
        "licenses": [{"license": {"id": "MIT"}}], "hashes": [{"alg": "SHA-256", "content": content}],
    }


if __name__ == "__main__":
    main()
