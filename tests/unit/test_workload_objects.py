"""Kubernetes objects of a lease: devices by resource or claim, storage by class, routes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gpulease.ids import LeaseId
from gpulease.inventory.placement import Grant, Overcommit
from gpulease.market.model import Attribute, Resources, Storage
from gpulease.workload.isolation import refusal
from gpulease.workload.model import Expose, ManifestGroup, Mount, Params, Service
from gpulease.workload.objects import Hosted, Hosting, build

pytestmark = pytest.mark.unit
LEASE = LeaseId("akash1tenant", 7, 1, 1, "akash1provider")
GIB = 1 << 30
MIG = "nvidia.com/mig-1g.10gb"


def service(**changes: Any) -> Service:
    """A web service with one GPU; ``volumes``, ``mounts``, ``gpus`` and ``hosts`` set its parts."""
    volumes = (Storage("default", GIB), *changes.pop("volumes", ()))
    resources = Resources(1, 1000, 4 * GIB, volumes, changes.pop("gpus", 1))
    expose = (Expose(8080, 80, is_global=True, hosts=changes.pop("hosts", None)),)
    mounts = changes.pop("mounts", None)
    fields: dict[str, Any] = {"name": "web", "image": "img:1", "resources": resources, "count": 1, "expose": expose}
    return Service(**{**fields, "params": Params(mounts) if mounts else None, **changes})


def service_group(*services: Service) -> ManifestGroup:
    return ManifestGroup("g", services or (service(),))


def objects(group: ManifestGroup, hosting: Hosting | None = None, **hosted: Any) -> dict[str, dict[str, Any]]:
    found = build(Hosted(LEASE, group, **hosted), hosting or Hosting(domain="apps.example.com"))
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in found}


def pod(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = found["Deployment/web"]["spec"]["template"]["spec"]
    return spec


def test_a_whole_gpu_is_asked_for_by_resource_name() -> None:
    found = objects(service_group())
    assert pod(found)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert found["ResourceQuota/lease"]["spec"]["hard"]["requests.nvidia.com/gpu"] == "1"
    assert found["Deployment/web"]["spec"]["strategy"] == {"type": "Recreate"}, "an update needs no spare GPU"


def test_a_mig_slice_is_asked_for_by_its_own_name() -> None:
    found = objects(service_group(), grants={1: Grant(MIG)})
    limits = pod(found)["containers"][0]["resources"]["limits"]
    assert (limits.get(MIG), limits.get("nvidia.com/gpu")) == ("1", None)
    hard = found["ResourceQuota/lease"]["spec"]["hard"]
    assert (hard[f"requests.{MIG}"], hard["requests.nvidia.com/gpu"]) == ("1", "0")


def test_with_dra_a_claim_is_made_from_the_orders_attributes() -> None:
    grant = Grant("gpu.nvidia.com/gpu-a100", "gpu.nvidia.com", "device.attributes['gpu.nvidia.com'].type == 'gpu'")
    found = objects(service_group(), grants={1: grant})
    request = found["ResourceClaimTemplate/web-gpu"]["spec"]["spec"]["devices"]["requests"][0]
    assert request["exactly"]["deviceClassName"] == "gpu.nvidia.com"
    assert request["exactly"]["selectors"] == [{"cel": {"expression": grant.selector}}]
    assert request["exactly"]["count"] == 1
    assert "adminAccess" not in request["exactly"]
    spec = pod(found)
    assert spec["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "web-gpu"}]
    assert spec["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    assert not [name for name in spec["containers"][0]["resources"]["limits"] if "nvidia" in name]
    hard = found["ResourceQuota/lease"]["spec"]["hard"]
    assert hard["gpu.nvidia.com.deviceclass.resource.k8s.io/devices"] == "1"
    labels = found["ResourceClaimTemplate/web-gpu"]["spec"]["metadata"]["labels"]
    assert labels["gpulease.dev/lease"] == found["Namespace/" + str(spec_namespace(found))]["metadata"]["name"]


def spec_namespace(found: dict[str, dict[str, Any]]) -> str:
    return str(found["Deployment/web"]["metadata"]["namespace"])


def test_overcommit_lowers_requests_and_leaves_limits() -> None:
    found = objects(service_group(), overcommit=Overcommit(100, 25))
    resources = pod(found)["containers"][0]["resources"]
    assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("500m", "1000m")
    assert int(resources["requests"]["memory"]) < int(resources["limits"]["memory"]) == 4 * GIB
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"
    hard = found["ResourceQuota/lease"]["spec"]["hard"]
    assert (hard["requests.cpu"], hard["limits.cpu"]) == ("500m", "1000m")


def volume(name: str, *, class_: str, persistent: bool) -> Storage:
    attributes = (Attribute("class", class_), Attribute("persistent", "true" if persistent else "false"))
    return Storage(name, 5 * GIB, attributes)


def test_storage_is_persistent_by_class_or_in_memory() -> None:
    kept = service(
        volumes=(volume("data", class_="beta3", persistent=True), volume("shm", class_="ram", persistent=False)),
        mounts=(Mount("data", "/data"), Mount("shm", "/dev/shm")),
        gpus=0,
    )
    found = objects(service_group(kept), Hosting(storage_classes={"beta3": "fast-ssd"}))
    claim = found["PersistentVolumeClaim/web-data"]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast-ssd", str(5 * GIB))
    volumes = {v["name"]: v for v in pod(found)["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "web-data"}
    assert volumes["shm"]["emptyDir"] == {"sizeLimit": str(5 * GIB), "medium": "Memory"}
    assert found["Deployment/web"]["spec"]["strategy"] == {"type": "Recreate"}
    hard = found["ResourceQuota/lease"]["spec"]["hard"]
    assert (hard["persistentvolumeclaims"], hard["requests.storage"]) == ("1", str(5 * GIB))


def test_a_gateway_named_by_the_admin_takes_the_place_of_ingress() -> None:
    group = service_group(service(hosts=("a.example.org",)))
    plain = objects(group, Hosting(domain="apps.example.com", ingress_class="nginx"))
    assert plain["Ingress/web"]["spec"]["ingressClassName"] == "nginx"
    routed = objects(group, Hosting(domain="apps.example.com", http_gateway=("infra", "public")))
    assert "Ingress/web" not in routed
    spec = routed["HTTPRoute/web"]["spec"]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert "a.example.org" in spec["hostnames"]
    assert len(spec["hostnames"]) == 2
    assert spec["rules"][0]["backendRefs"] == [{"name": "web", "port": 80}]


def test_only_names_that_lead_to_the_lease_are_routed() -> None:
    group = service_group(service(hosts=("a.example.org", "B.example.org", "x.apps.example.com")))
    names = [rule["host"] for rule in objects(group)["Ingress/web"]["spec"]["rules"]]
    assert names[:2] == ["a.example.org", "B.example.org"]
    assert len(names) == 3
    assert "x.apps.example.com" not in names, "the provider's own domain is not for the asking"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"env": ("NVIDIA_VISIBLE_DEVICES=all",)}, "NVIDIA_VISIBLE_DEVICES"),
        ({"env": ("nvidia_visible_devices=all",)}, "provider's to set"),
        ({"env": ("LD_PRELOAD=/x.so",)}, "LD_PRELOAD"),
        ({"env": ("LD_AUDIT=/x.so",)}, "LD_AUDIT"),
        ({"env": ("GLIBC_TUNABLES=x",)}, "GLIBC_TUNABLES"),
        ({"env": ("CUDA_MPS_PIPE_DIRECTORY=/x",)}, "CUDA_MPS_PIPE_DIRECTORY"),
        ({"env": ("NVIDIA_DRIVER_CAPABILITIES=all",)}, "allowed are compute"),
        ({"env": ("1BAD=x",)}, "no name of a variable"),
        ({"env": ("=x",)}, "no name of a variable"),
        ({"env": tuple(f"V{i}=x" for i in range(300))}, "more than 256"),
        ({"env": ("BIG=" + "x" * 200_000,)}, "KiB"),
        ({"args": ("x" * 100_000,)}, "64 KiB"),
        ({"mounts": (Mount("default", "/proc"),)}, "belongs to the system"),
        ({"mounts": (Mount("default", "/sys/fs/cgroup"),)}, "belongs to the system"),
        ({"mounts": (Mount("default", "/dev"),)}, "belongs to the system"),
        ({"mounts": (Mount("default", "/var/run/secrets"),)}, "belongs to the system"),
        ({"mounts": (Mount("default", "/usr/lib/x86_64-linux-gnu"),)}, "belongs to the system"),
        ({"mounts": (Mount("default", "/etc"),)}, "belongs to the system"),
        ({"mounts": (Mount("default", "/"),)}, "absolute path"),
        ({"mounts": (Mount("default", "/data/../etc"),)}, "absolute path"),
        ({"mounts": (Mount("default", "data"),)}, "absolute path"),
        ({"count": 2, "volumes": (volume("data", class_="beta3", persistent=True),)}, "use count 1"),
    ],
)
def test_hostile_manifests_are_refused_with_what_to_change(changes: dict[str, Any], says: str) -> None:
    words = refusal(service_group(service(**changes)))
    assert words is not None
    assert words.startswith("service web ")
    assert says in words


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"env": ("PATH=/bin", "LD_LIBRARY_PATH=/opt/lib", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "A.B=c=d")},
        {
            "mounts": (
                Mount("default", "/dev/shm"),
                Mount("default", "/data"),
                Mount("default", "/usr/share/nginx/html"),
            )
        },
        {"volumes": (volume("data", class_="beta3", persistent=True),)},
    ],
)
def test_what_tenants_commonly_ask_for_is_taken(changes: dict[str, Any]) -> None:
    assert refusal(service_group(service(**changes))) is None
