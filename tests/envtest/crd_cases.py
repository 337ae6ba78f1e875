"""What each CEL rule of the CRDs refuses: one case for every rule, found by where it stands and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]
Change = Callable[[Spec], object]


@dataclass(frozen=True, slots=True)
class Case:
    """``change`` breaks the rule at ``path`` of ``kind``; ``says`` is a part of its message.

    With ``update`` the sample is created first and the change is an update of it.
    """

    kind: str
    path: str
    says: str
    change: Change
    sample: str = "minimal"
    update: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.path}-{self.says[:24]}"


def put(*keys: str | int, value: Any) -> Change:
    """Set the value at a path of keys and indices below spec."""

    def change(spec: Spec) -> None:
        place: Any = spec
        for key in keys[:-1]:
            place = place[key] if isinstance(key, int) else place.setdefault(key, {})
        place[keys[-1]] = value

    return change


def remove(*keys: str | int) -> Change:
    def change(spec: Spec) -> None:
        place: Any = spec
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


def both(*changes: Change) -> Change:
    def change(spec: Spec) -> None:
        for each in changes:
            each(spec)

    return change


_USD = "write USD as a quoted decimal"
_RPC = "rpc must be an http or https URL"
_SERVICE = "services[]"
_RESOURCES = "services[].resources"
_EXPOSE = "services[].expose"
_TWO_PORTS = [{"port": 8080, "as": 80, "global": True}, {"port": 9000, "as": 80, "global": True}]


def _lease(path: str, says: str, change: Change, **more: Any) -> Case:
    return Case("GPULease", path, says, change, **more)


def _resource(name: str, value: Any, says: str) -> Case:
    return _lease(f"{_RESOURCES}.{name}", says, put("services", 0, "resources", name, value=value))


_SDL = 'version: "2.0"'
_TO_SDL = both(remove("services"), put("sdl", value=_SDL))

GPULEASE = (
    _lease("", "spec needs services or sdl", remove("services")),
    _lease("", "placement is set besides sdl", both(_TO_SDL, put("placement", value={}))),
    _lease("", "sdl cannot change", put("sdl", value=_SDL), sample="sdl", update=True),
    _lease("", "no service asks for a GPU", put("services", 0, "resources", "gpu", value={"count": 0})),
    _lease("", "no service is reachable", put("services", 0, "expose", value=[{"port": 8080}])),
    _lease("", "maxUsdPerHour is 0", put("maxUsdPerHour", value="0.00")),
    _lease("", "depositUsd is 0", put("depositUsd", value="0")),
    _lease("", "budgetUsd is below depositUsd", put("depositUsd", value="5.000001")),
    _lease("", "services cannot be added", put("services", 0, "name", value="other"), update=True),
    _lease("", "placement cannot change", put("placement", value={"signedBy": {}}), update=True),
    _lease("chain", "chainID cannot change", put("chain", "chainID", value="other"), update=True),
    _lease("chain.endpoints[].rpc", _RPC, put("chain", "endpoints", 0, "rpc", value="ftp://node:21")),
    _lease("wallet", "wallet cannot change", put("wallet", "secretName", value="other"), update=True),
    _lease(_SERVICE, "replicas cannot change", put("services", 0, "replicas", value=2), update=True),
    _lease(
        _SERVICE,
        "the number of global HTTP",
        put("services", 0, "expose", 0, "as", value=8080),
        update=True,
    ),
    _lease(_RESOURCES, "cpu, memory and storage", put("services", 0, "resources", "memory", value="1Gi"), update=True),
    _lease(_RESOURCES, "GPU count and models", put("services", 0, "resources", "gpu", "count", value=2), update=True),
    _resource("cpu", "9m", "cpu must be between"),
    _resource("memory", "3Ti", "memory must be between"),
    _resource("storage", "1Mi", "storage must be between"),
    _lease(
        f"{_RESOURCES}.gpu",
        "gpu.models is set while gpu.count is 0",
        put("services", 0, "resources", "gpu", value={"count": 0, "models": [{"model": "a100"}]}),
    ),
    _lease(_EXPOSE, "two expose entries", put("services", 0, "expose", value=_TWO_PORTS)),
    _lease(
        f"{_EXPOSE}[]",
        "hosts works only for global HTTP",
        put("services", 0, "expose", value=[{"port": 9, "global": True, "hosts": ["a.example.com"]}]),
    ),
    *(_lease(name, _USD, put(name, value="-1")) for name in ("maxUsdPerHour", "budgetUsd", "depositUsd")),
)


def _provider(path: str, says: str, change: Change, **more: Any) -> Case:
    return Case("GPUProvider", path, says, change, **more)


_PRICES = [{"model": "a100", "usdPerHour": "1"}, {"model": "a100", "usdPerHour": "2"}]
_RANGES = "isolation.privateRangesAllowed"

GPUPROVIDER = (
    _provider("chain", "chainID cannot change", put("chain", "chainID", value="other"), update=True),
    _provider("chain.endpoints[].rpc", _RPC, put("chain", "endpoints", 0, "rpc", value="node:26657")),
    _provider("wallet", "wallet cannot change", put("wallet", "key", value="other"), update=True),
    _provider("hostURI", "hostURI must be https", put("hostURI", value="https://provider.example.com:8443/path")),
    _provider("pricing.gpuUsdPerHour", "two gpuUsdPerHour entries", put("pricing", "gpuUsdPerHour", value=_PRICES)),
    _provider(
        "pricing.gpuUsdPerHour[].usdPerHour", _USD, put("pricing", "gpuUsdPerHour", 0, "usdPerHour", value="1e3")
    ),
    *(
        _provider(f"pricing.{name}", _USD, put("pricing", name, value="$1"))
        for name in ("cpuUsdPerCoreHour", "memoryUsdPerGiBHour", "storageUsdPerGiBHour", "endpointUsdPerHour")
    ),
    _provider(
        "capacity.storageClasses[].name",
        "ram is the class of volumes in memory",
        put("capacity", "storageClasses", value=[{"name": "ram", "storageClassName": "x"}]),
    ),
    _provider(f"{_RANGES}[]", "write a network in CIDR form", put(*_RANGES.split("."), value=["10.20.0.0"])),
    _provider(f"{_RANGES}[]", "the network holds a loopback", put(*_RANGES.split("."), value=["169.254.0.0/16"])),
)


def _hosted(path: str, says: str, change: Change) -> Case:
    return Case("HostedLease", path, says, change, sample="placed", update=True)


HOSTEDLEASE = (
    _hosted("", "namespace cannot change", put("namespace", value="lease-other")),
    _hosted("", "priceUactPerBlock cannot change", put("priceUactPerBlock", value="1")),
    _hosted("leaseID", "leaseID cannot change", put("leaseID", "oseq", value=2)),
)

CASES = (*GPULEASE, *GPUPROVIDER, *HOSTEDLEASE)


# Further edges of rules above: each names the same rule by another input.
EDGES = (
    *(
        _provider(f"{_RANGES}[]", "the network holds a loopback", put(*_RANGES.split("."), value=[network]))
        for network in ("127.0.0.0/8", "0.0.0.0/0", "fd00:ec2::/32", "::/0")
    ),
    _provider("hostURI", "hostURI must be https", put("hostURI", value="http://provider.example.com:8443")),
    _provider("hostURI", "hostURI must be https", put("hostURI", value="https://provider.example.com")),
    _resource("cpu", "385", "cpu must be between"),
    _resource("memory", 1, "memory must be between"),
    _resource("storage", "33Ti", "storage must be between"),
    _lease(
        "", "services cannot be added", lambda s: s["services"].append({**s["services"][0], "name": "b"}), update=True
    ),
    _lease("", "placement cannot change", remove("placement"), sample="inference", update=True),
    _lease(
        _RESOURCES, "GPU count and models", remove("services", 1, "resources", "gpu"), sample="inference", update=True
    ),
    _lease("budgetUsd", _USD, put("budgetUsd", value="1.0000001")),
    _lease("", "spec needs services or sdl", put("sdl", value=_SDL)),
    _lease("", "sdl cannot change", _TO_SDL, update=True),
)
