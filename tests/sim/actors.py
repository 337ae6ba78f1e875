"""Everyone but the operator: tenants of the chain, rival providers, people with kubectl.

Actors act between blocks, at once and without faults of their own: what they do is what the operator has to live with.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from gpulease.chain import codec
from gpulease.chain.keys import Key
from gpulease.chain.tx import Fee, Ordering, build, pack
from gpulease.devnet.chain import tx_hash
from gpulease.ids import DeploymentId, LeaseId, OrderId
from gpulease.market.gpu import kind_of_product, published
from gpulease.market.model import Bid, BidState, DeploymentState, LeaseState, OrderState, ProviderRecord
from gpulease.units import NS_PER_S, UACT, Coin, Dec, DecCoin
from gpulease.workload.compile import compile_services
from gpulease.workload.manifest import manifest_hash, to_json
from tests.fakes.kube_api import Json

if TYPE_CHECKING:
    from tests.sim.world import World

T = TypeVar("T")
API = "gpulease.dev/v1alpha1"
_SECRET_WORDS = "tenant-secret"


def drive(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait."""
    try:
        coro.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coro.close()
    raise AssertionError("the coroutine waits")


def key_of(name: str) -> Key:
    return Key(hashlib.sha256(f"simulated {name}".encode()).digest())


def secret_of(name: str) -> str:
    return hashlib.sha256(f"simulated {name}".encode()).hexdigest()


class Account:
    """Signs and hands over transactions without any fault in between."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.key = world, key_of(name)
        self._number: int | None = None
        self._last_ns = 0

    @property
    def address(self) -> str:
        return self.key.address

    def send(self, *messages: Message) -> str:
        """The transaction's hash, whatever the chain thinks of it."""
        chain = self._world.chain
        if self._number is None:
            account = drive(self._world.omni.account(self.address))
            assert account is not None, self.address
            self._number = account.number
        life_ns = min(int(self._world.block_s * 20 * NS_PER_S), 590 * NS_PER_S)
        self._last_ns = max(chain.time_ns + life_ns, self._last_ns + 1)
        raw = build(
            tuple(pack(m) for m in messages),
            signer=self.key,
            chain_id=chain.chain_id,
            account_number=self._number,
            fee=Fee((Coin("uakt", 20_000),), 700_000),
            ordering=Ordering(timeout_ns=self._last_ns),
        )
        chain.add_to_mempool(raw)
        return tx_hash(raw).hex().upper()


def services(image: str, *, gpus: int, replicas: int = 1, version: int = 0) -> list[Json]:
    """``spec.services`` of a GPULease."""
    return [
        {
            "name": "web",
            "image": image,
            "count": replicas,
            "env": [{"name": "VERSION", "value": str(version)}, {"name": "TOKEN", "value": _SECRET_WORDS}],
            "resources": {
                "cpu": "500m",
                "memory": "256Mi",
                "storage": "512Mi",
                **({"gpu": {"count": gpus, "models": [{"model": "a100"}]}} if gpus else {}),
            },
            "expose": [{"port": 8080, "as": 80, "global": True}],
        }
    ]


@dataclass(frozen=True, slots=True)
class Habit:
    """How a tenant of the chain behaves. Times in blocks."""

    gpus: int = 1
    replicas: int = 1
    image: str = "localhost/app:1"
    life: int = 500
    window: int = 2
    deposit_blocks: int = 1000
    tops_up: bool = True
    sends_manifest: bool = True
    manifest_delay: int = 0
    wrong_first: bool = False
    updates: bool = False
    closes: bool = True
    chooses: bool = True


class ChainTenant:
    """A tenant that speaks to the chain and to gateways by itself."""

    def __init__(self, world: World, name: str, habit: Habit) -> None:
        self.world, self.name, self.habit = world, name, habit
        self.account = world.account(name)
        self.serial = 0
        self.id: DeploymentId | None = None
        self.lease: LeaseId | None = None
        self.version = 0
        self.sent_version = -1
        self.sending = False
        self.began = self.leased_at = 0
        self.done = self.settled = False
        self._next_look = self._topped = 0

    @property
    def ceiling(self) -> Dec:
        return self.world.ceiling * (self.habit.replicas * max(self.habit.gpus, 1))

    def manifest(self, version: int | None = None) -> tuple[tuple[Any, ...], bytes, bytes]:
        habit = self.habit
        raw = services(
            habit.image, gpus=habit.gpus, replicas=habit.replicas, version=self.version if version is None else version
        )
        group, manifest = compile_services(raw, placement={}, ceiling=self.ceiling)
        return (group,), to_json(manifest), manifest_hash(manifest)

    def act(self) -> None:
        """Once per block."""
        if self.done or self.world.height < self._next_look:
            return
        if self.id is None:
            if not self.settled:
                self._order()
            return
        deployment = drive(self.world.omni.deployment(self.id))
        if deployment is None:
            if self.world.height > self.began + 5:
                self.id = None
            return
        if deployment.state is DeploymentState.CLOSED:
            self.done = True
            return
        if self.lease is None:
            self._choose()
        else:
            self._live(deployment)

    def settle(self) -> None:
        """From now on this tenant only keeps what it has: no order, no change, no end."""
        if self.settled:
            return
        self.settled = True
        self._next_look = 0
        lease = drive(self.world.omni.lease(self.lease)) if self.lease is not None else None
        if lease is not None and lease.state is LeaseState.ACTIVE and not self.done:
            amount = Coin(UACT, (lease.price.amount.truncate() + 1) * 4000)
            self.account.send(codec.deposit_deployment(self.account.address, lease.id.deployment, amount=amount))

    def _order(self) -> None:
        self.serial += 1
        self.began = self.world.height
        self.id = DeploymentId(self.account.address, self.world.rng.randint(1, 1 << 40))
        groups, _, hash_ = self.manifest()
        amount = max((self.ceiling.truncate() + 1) * self.habit.deposit_blocks, 500_000)
        self.account.send(codec.create_deployment(self.id, groups, hash_=hash_, deposit=Coin(UACT, amount)))

    def _choose(self) -> None:
        assert self.id is not None
        leases = drive(self.world.omni.leases(owner=self.id.owner, dseq=self.id.dseq))
        live = [x for x in leases if x.state is LeaseState.ACTIVE]
        if live:
            self.lease, self.leased_at = live[0].id, self.world.height
            return
        waited = self.world.height - self.began
        if waited > self.habit.life or self.settled:
            self.account.send(codec.close_deployment(self.id))
            return
        if waited < self.habit.window or not self.habit.chooses or waited % 3:
            return
        bids = drive(self.world.omni.bids(owner=self.id.owner, dseq=self.id.dseq))
        open_ = sorted((b for b in bids if b.state is BidState.OPEN), key=lambda b: (b.price.amount.raw, b.id.provider))
        if open_:
            self.account.send(codec.create_lease(open_[0].id))

    def _live(self, deployment: Any) -> None:
        assert self.lease is not None
        lease = drive(self.world.omni.lease(self.lease))
        if lease is None or lease.state is not LeaseState.ACTIVE:
            if self.habit.closes:
                self.account.send(codec.close_deployment(self.lease.deployment))
            self.done = not self.habit.closes
            return
        age = self.world.height - self.leased_at
        if self.habit.updates and not self.settled and age >= self.habit.life // 2 and self.version == 0:
            self.version = 1
            _, _, hash_ = self.manifest()
            self.account.send(codec.update_deployment(self.lease.deployment, hash_=hash_))
        due = self.habit.sends_manifest and age >= self.habit.manifest_delay and self.sent_version != self.version
        if due and not self.sending:
            self.sending = True
            self.world.tell_gateway(self)
        if age >= self.habit.life and not self.settled:
            if self.habit.closes:
                self.account.send(codec.close_deployment(self.lease.deployment))
            else:
                self.done = True
        elif self.habit.tops_up and self.habit.life > self.habit.deposit_blocks and age - self._topped >= 20:
            self._topped = age
            self._top_up(lease, deployment)
        elif not due and not self.settled and age < self.habit.life - 6:
            # Nothing to do for a while.
            self._next_look = self.world.height + 5

    def _top_up(self, lease: Any, deployment: Any) -> None:
        rate = lease.price.amount.truncate() + 1
        funds = sum((c.amount.truncate() for c in deployment.escrow.funds), 0)
        left = funds // rate - (self.world.height - deployment.escrow.settled_at)
        if left < 45:
            amount = Coin(UACT, rate * self.habit.deposit_blocks)
            self.account.send(codec.deposit_deployment(self.account.address, lease.id.deployment, amount=amount))


class Rival:
    """A provider of somebody else: bids a price of its own on what it likes, and runs what it wins only in name."""

    def __init__(self, world: World, name: str, *, factor: float, likes: float) -> None:
        self.world, self.account = world, world.account(name)
        self.factor, self.likes = factor, likes
        self.host = f"{name}.example"
        self.seen: set[OrderId] = set()
        self.manifests: dict[LeaseId, bytes] = {}
        kind = kind_of_product("NVIDIA-A100-SXM4-80GB")
        assert kind is not None
        record = ProviderRecord(self.account.address, f"https://{self.host}:8443", published((kind,)), "", "")
        self._record = codec.provider_record(record, exists=False)
        self._registered = False

    def act(self) -> None:
        if not self._registered:
            self._registered = True
            self.account.send(self._record)
            return
        for order in self.world.fresh_orders:
            if order in self.seen or self.world.rng.random() > self.likes:
                continue
            self.seen.add(order)
            amount = Dec(int(self.world.ceiling.raw * self.factor) // 10**12 * 10**12)
            bid = codec.create_bid(
                order.bid(self.account.address), price=DecCoin(UACT, amount), deposit=Coin("uakt", 500_000)
            )
            self.account.send(bid)
        if self.world.height % 200 == 0:
            self._tidy()

    def _tidy(self) -> None:
        """Now and then: withdraw, and close a lease nobody has ended."""
        for lease in drive(self.world.omni.leases(provider=self.account.address, state="active")):
            self.account.send(codec.withdraw_lease(lease.id))
            if self.world.rng.random() < 0.05:
                self.account.send(codec.close_bid(lease.id, reason=10001))


@dataclass(slots=True)
class KubectlTenant:
    """A person with a GPULease. ``life`` and ``edit_at`` in blocks after creation."""

    world: World
    name: str
    life: int
    gpus: int = 1
    image: str = "localhost/app:1"
    mischief: str = ""
    edit_at: int = 0
    made_at: int = 0
    deleted: bool = False
    edited: bool = False
    budget_usd: str = "5000"

    @property
    def namespace(self) -> str:
        return "team-a"

    def act(self) -> None:
        world, api = self.world, self.world.api
        if not self.made_at:
            self.made_at = world.height
            api.put(self._wallet(), actor="kubectl")
            api.put(self.body(), actor="kubectl")
            return
        age = world.height - self.made_at
        if self.edit_at and age >= self.edit_at and not self.edited:
            self.edited = True
            self._edit()
        if age >= self.life and not self.deleted:
            self.deleted = True
            api.remove((API, "GPULease"), self.name, self.namespace, actor="kubectl")

    def body(self) -> Json:
        world = self.world
        return {
            "apiVersion": API,
            "kind": "GPULease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "chain": world.chain_spec,
                "wallet": {"secretName": f"wallet-{self.name}", "key": "key"},
                "services": services(self.image, gpus=self.gpus),
                "maxUsdPerHour": f"{2 * self.gpus}.00",
                "budgetUsd": self.budget_usd,
                "depositUsd": "40",
                "bidWindowSeconds": 2 * world.block_s,
            },
        }

    def _wallet(self) -> Json:
        return wallet_secret(f"wallet-{self.name}", self.namespace, f"kubectl-{self.name}")

    def _edit(self) -> None:
        """What people do to objects they do not understand."""
        api = self.world.api
        kind = (API, "GPULease")

        def change(edit: Any) -> None:
            api.change(kind, self.name, self.namespace, edit, actor="kubectl")

        if self.mischief == "new-manifest":
            change(lambda b: b["spec"].update(services=services(self.image, gpus=self.gpus, version=1)))
        elif self.mischief == "drop-finalizer":
            change(lambda b: b["metadata"].pop("finalizers", None))
        elif self.mischief == "drop-annotations":
            change(lambda b: b["metadata"].pop("annotations", None))
        elif self.mischief == "drop-status":
            change(lambda b: b.pop("status", None))
        elif self.mischief == "labels":
            change(lambda b: b["metadata"].update(labels={"app.kubernetes.io/managed-by": "me"}))
        elif self.mischief == "wallet-gone":
            api.remove(("v1", "Secret"), f"wallet-{self.name}", self.namespace, actor="kubectl")
            self.world.later(40 * self.world.block_s, lambda: api.put(self._wallet(), actor="kubectl"))


MISCHIEF = ("new-manifest", "drop-finalizer", "drop-annotations", "drop-status", "labels", "wallet-gone")


def wallet_secret(name: str, namespace: str, account: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"key": base64.b64encode(secret_of(account).encode()).decode()},
    }


def random_habit(rng: Random, blocks: int) -> Habit:
    """One of the kinds of tenant there are; ``blocks`` is how long the run is."""
    life = rng.randint(max(blocks // 20, 20), max(blocks // 2, 40))
    kind = rng.choice(
        ("good",) * 5 + ("tops-up", "vanishes", "silent", "late", "wrong", "updates", "poor", "bad-image", "idle")
    )
    base: dict[str, Any] = {"gpus": rng.choice((0, 1, 1, 1, 2)), "life": life, "deposit_blocks": life + 200}
    base["replicas"] = rng.choice((1, 1, 1, 2))
    special: dict[str, dict[str, Any]] = {
        "tops-up": {"deposit_blocks": max(life // 4, 70)},
        "vanishes": {"closes": False, "deposit_blocks": life + 20, "tops_up": False},
        "silent": {"sends_manifest": False},
        "late": {"manifest_delay": rng.randint(1, 8)},
        "wrong": {"wrong_first": True},
        "updates": {"updates": True},
        "poor": {"deposit_blocks": 30, "tops_up": False},
        "bad-image": {"image": "localhost/missing:1"},
        "idle": {"chooses": False, "life": max(life // 4, 10)},
    }
    return Habit(**{**base, **special.get(kind, {})})


__all__: Sequence[str] = (
    "MISCHIEF", "Account", "Bid", "ChainTenant", "Habit", "KubectlTenant", "OrderState", "Rival", "drive", "field",
    "key_of", "random_habit", "secret_of", "services", "wallet_secret",
)  # fmt: skip
