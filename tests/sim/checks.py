"""What must hold: looked at after every block, and once more when everything has come to rest.

Each breach is one sentence with the height; the first one ends a run.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from gpulease.devnet.chain import BlockResult, tx_hash
from gpulease.ids import LeaseId
from gpulease.inventory.devices import LEASE_LABEL
from gpulease.market.model import BidState, DeploymentState, LeaseState, OrderState
from gpulease.money.runway import project
from gpulease.workload.names import lease_namespace
from tests.fakes.kube_api import NAMESPACE as NAMESPACES
from tests.fakes.kube_api import POD, Kind, Write
from tests.fakes.kube_nodes import need
from tests.sim.actors import API, drive

if TYPE_CHECKING:
    from tests.sim.world import World

_LEASED: Kind = (API, "HostedLease")
_GPULEASE: Kind = (API, "GPULease")
SLACK_BLOCKS = 2
_FINAL = {"included", "refused", "expired"}


class Broken(Exception):
    """Something that must hold does not."""


class Checks:
    """Register with :meth:`watch`; ``calm_s`` is when the last fault ended, from which overdue work counts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: dict[str, set[str]] = {}
        self.fate: dict[str, dict[str, Any]] = {}
        self.included: dict[str, int] = {}
        self.landed: dict[str, int] = {}
        self.by_hash: dict[str, str] = {}
        self._touched: set[str] = set()
        self.done = 0
        self.looked = 0
        self._last_write_s = -1.0
        world.disk.on_put = self._stored
        world.on_block.append(self.block)
        # Just before a block: the operator has had its time to read the last one.
        world.before_block.append(self._ledger)

    def _stored(self, kind: str, key: str, body: dict[str, Any]) -> None:
        if kind == "outbox":
            if body["hash"]:
                self.sent.setdefault(key, set()).add(body["hash"])
                self.by_hash[body["hash"]] = key
            self.fate[key] = body
            self._touched.add(key)

    def block(self, block: BlockResult) -> None:
        for raw, result in block.txs:
            hash_ = tx_hash(raw).hex().upper()
            self.landed[hash_] = block.height
            if result.code == 0:
                self.included[hash_] = block.height
            if hash_ in self.by_hash:
                self._touched.add(self.by_hash[hash_])
        self.looked += 1
        self._intents()
        self._deletions()
        self._overdue()
        if self.looked % 10 == 0:
            self._unpaid()
        self._oversold()
        self._secrets()

    def fail(self, words: str) -> None:
        raise Broken(f"height {self.world.height}: {words}")

    # --- money -------------------------------------------------------------------------------------------------------

    def _ledger(self) -> None:
        """What the operator's books say of an account is what the bank says, whenever it has read to the tip."""
        operator = self.world.operator
        if operator is None or self.world.process is None or self.world.process.dead:
            return
        for session in operator.hub.sessions:
            if session._load_cursor() != self.world.height:
                continue
            self.done += 1
            for account in session.books.accounts:
                found = drive(self.world.omni.balances(account))
                difference = session.books.ledger.difference(account, found)
                if difference:
                    self.fail(f"the ledger of {account} differs from the bank by {difference}")

    def _intents(self) -> None:
        touched, self._touched = self._touched, set()
        for key in touched:
            hashes = self.sent.get(key, set())
            landed = [h for h in hashes if h in self.included]
            heights = sorted(self.landed[h] for h in hashes if h in self.landed)
            # A batch that fails is taken apart and sent again; what has once succeeded is not.
            if landed and heights[-1] > self.included[landed[0]]:
                self.fail(f"intent {key} was sent again after block {self.included[landed[0]]}")
            if sum(height == self.included[landed[0]] for height in heights) > 1 if landed else False:
                self.fail(f"intent {key} is twice in block {self.included[landed[0]]}")
            fate = self.fate[key]
            if landed and fate["state"] in ("refused", "expired"):
                self.fail(f"intent {key} is called {fate['state']} but is in block {self.included[landed[0]]}")
            if fate["state"] == "included" and fate["code"] == 0 and not landed:
                self.fail(f"intent {key} is called included but is in no block")

    # --- tenants -----------------------------------------------------------------------------------------------------

    def _deletions(self) -> None:
        """Nothing of a lease that the chain calls active is deleted by the operator."""
        by_space = {lease_namespace(id_): fate for id_, fate in self.world.fates.items()}
        latest = self._last_write_s
        for write in reversed(self.world.api.writes):
            if write.at_s <= self._last_write_s:
                break
            latest = max(latest, write.at_s)
            if write.actor == "operator" and write.what == "delete":
                self._judge_deletion(write, by_space)
        self._last_write_s = latest

    def _judge_deletion(self, write: Write, by_space: dict[str, Any]) -> None:
        space = write.name.split("/")[0]
        fate = by_space.get(space)
        if fate is not None and fate.closed is None and write.kind in ("Namespace", "Pod"):
            self.fail(f"the operator deleted {write.kind} {write.name} of an active lease")
        if write.kind == "HostedLease":
            for id_, entry in self.world.fates.items():
                if entry.closed is None and write.name.endswith(lease_namespace(id_)[:8]):
                    self.fail(f"the operator forgot the active lease {id_}")

    def _overdue(self) -> None:
        """No pod outlives its lease by more than two blocks and one resync, counted from when faults let us."""
        world = self.world
        if world.process is None or world.process.dead or world.faults.switches or world.halted:
            world.faults.last_s = max(world.faults.last_s, world.loop.time())
        allowed_s = SLACK_BLOCKS * world.block_s + world.shape.resync_s + 10 * world.block_s
        for id_, fate in world.fates.items():
            if fate.closed is None or id_.provider != world.provider:
                continue
            overdue_s = world.loop.time() - max(fate.closed_s, world.faults.last_s)
            if overdue_s > allowed_s and world.pods_of(id_):
                self.fail(f"pods of {id_} still run {overdue_s:.0f} s after its close at height {fate.closed}")

    def _unpaid(self) -> None:
        """An escrow account that has run out is settled at once, and the lease ends with its money."""
        world = self.world
        resync = int(world.shape.resync_s / world.block_s) + 10
        calm = int((world.loop.time() - world.faults.last_s) / world.block_s)
        if calm <= resync:
            return
        for id_, fate in world.fates.items():
            if fate.closed is not None or id_.provider != world.provider or world.height - fate.created <= resync:
                continue
            lease, deployment = drive(world.omni.lease(id_)), drive(world.omni.deployment(id_.deployment))
            if lease is None or deployment is None or lease.payment is None:
                continue
            ends = project(deployment.escrow, [lease.payment], height=world.height).run_out_height
            if ends is not None and world.height > ends + resync:
                self.fail(f"{id_} runs {world.height - ends} blocks after its money")

    # --- devices -----------------------------------------------------------------------------------------------------

    def _oversold(self) -> None:
        """Leases that are alive never need more GPUs than there are."""
        world = self.world
        held: dict[str, int] = {}
        for pod in world.api.all(POD):
            node = pod["spec"].get("nodeName")
            if node and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded"):
                held[node] = held.get(node, 0) + need(pod).gpus
        for name, count in held.items():
            if count > len(world.controllers.nodes[name].devices):
                self.fail(f"{count} GPUs of {name} are in use, it has {len(world.controllers.nodes[name].devices)}")
        total = sum(len(n.devices) for n in world.controllers.nodes.values())
        sold = sum(
            self._gpus(id_) for id_, f in world.fates.items() if f.closed is None and id_.provider == world.provider
        )
        if sold > total:
            self.fail(f"{sold} GPUs are leased, there are {total}")

    def _gpus(self, id_: LeaseId) -> int:
        if not hasattr(self, "_known_gpus"):
            self._known_gpus: dict[LeaseId, int] = {}
        if id_ not in self._known_gpus:
            order = drive(self.world.omni.order(id_.order))
            assert order is not None
            self._known_gpus[id_] = order.spec.gpu_count
        return self._known_gpus[id_]

    def _secrets(self) -> None:
        log = self.world.log
        if log.leaks:
            self.fail(f"a secret is in a log line: {log.leaks[0][:80]}")
        if log.errors:
            self.fail(f"the operator met a defect: {log.errors[0]}")

    # --- at rest -----------------------------------------------------------------------------------------------------

    def at_rest(self) -> None:
        """Everything that was begun has come to its end."""
        self._touched = set(self.fate)
        self._intents()
        assert self.world.operator is not None
        # Whose object was torn away with its finalizer has nobody left to sign for it after a restart.
        signing = {name for session in self.world.operator.hub.sessions for name in session._senders}
        for key, fate in self.fate.items():
            if fate["state"] not in _FINAL and fate["signer"] in signing:
                self.fail(f"intent {key} is still {fate['state']}")
        self._bids_home()
        self._capacity_home()
        self._hosted()
        self._leases_of_people()
        self._statuses()

    def _bids_home(self) -> None:
        omni = self.world.omni
        for bid in drive(omni.bids(provider=self.world.provider, state="open")):
            order = drive(omni.order(bid.id.order))
            if bid.state is BidState.OPEN and (order is None or order.state is not OrderState.OPEN):
                self.fail(f"the deposit of the lost bid {bid.id} is still on chain")

    def _capacity_home(self) -> None:
        world = self.world
        assert world.operator is not None
        site = world.operator.providers.by_address(world.provider)
        if site is None:
            self.fail("the provider is not served")
            return
        for held in site.stock.reservations.all():
            id_ = LeaseId.parse(held.key)
            fate = world.fates.get(id_)
            bid = drive(world.omni.bid(id_))
            alive = fate is not None and fate.closed is None
            if not alive and (bid is None or bid.state is not BidState.OPEN):
                self.fail(f"capacity of {held.key} is held for nothing")
        for id_, fate in world.fates.items():
            if fate.closed is None and id_.provider == world.provider and site.stock.reservations.get(str(id_)) is None:
                self.fail(f"no capacity is held for the lease {id_}")

    def _hosted(self) -> None:
        world = self.world
        hosted = {b["spec"]["namespace"]: b for b in world.api.all(_LEASED)}
        spaces = {b["metadata"]["name"] for b in world.api.all(NAMESPACES) if LEASE_LABEL in b["metadata"]["labels"]}
        for id_, fate in world.fates.items():
            if id_.provider != world.provider:
                continue
            space = lease_namespace(id_)
            if fate.closed is not None:
                if space in spaces:
                    self.fail(f"the namespace of the closed lease {id_} is still there")
                continue
            body = hosted.get(space)
            if body is None:
                self.fail(f"the lease {id_} has no HostedLease")
            deployment = drive(world.omni.deployment(id_.deployment))
            secret = world.api.get(("v1", "Secret"), f"manifest-{space}", "gpulease-system")
            kept = ((secret or {}).get("metadata", {}).get("annotations") or {}).get("gpulease.dev/manifest-hash")
            assert deployment is not None
            pods = [p for p in world.pods_of(id_) if (p.get("status") or {}).get("phase") == "Running"]
            bad = any("missing" in c["image"] for p in world.pods_of(id_) for c in p["spec"]["containers"])
            if kept == deployment.hash.hex() and not bad and not pods:
                self.fail(f"the lease {id_} has its manifest and runs no pod")
            if body is not None and pods and not bad and (body.get("status") or {}).get("state") != "Running":
                self.fail(f"the lease {id_} runs, its HostedLease says {body.get('status')}")
        for space in spaces - {lease_namespace(i) for i in world.fates}:
            self.fail(f"the namespace {space} belongs to no lease")

    def _leases_of_people(self) -> None:
        world = self.world
        for person in world.people:
            body = world.api.get(_GPULEASE, person.name, person.namespace)
            owner = world.account(f"kubectl-{person.name}").address
            deployments = [d for d in world.deployments_of(owner) if d.state is DeploymentState.ACTIVE]
            if person.deleted and body is not None:
                self.fail(f"the deleted GPULease {person.name} is still there: {body.get('status')}")
            # A finalizer that somebody has taken away is a promise that nobody can keep.
            if body is None and deployments and person.mischief not in ("drop-finalizer",):
                self.fail(f"GPULease {person.name} is gone and deployment {deployments[0].id} is still open")
            if body is None or person.deleted:
                continue
            live = [x for x in drive(world.omni.leases(owner=owner)) if x.state is LeaseState.ACTIVE]
            state = (body.get("status") or {}).get("state")
            if live and state not in ("Running", "Deploying", "Leased"):
                self.fail(f"GPULease {person.name} has a lease, its state is {state}")
            if live and state != "Running" and person.image == "localhost/app:1":
                self.fail(f"GPULease {person.name} is {state}, not Running: {body.get('status')}")
            if len(live) > 1 or len(deployments) > 1:
                self.fail(f"GPULease {person.name} pays for {len(live)} leases and {len(deployments)} deployments")

    def _statuses(self) -> None:
        log = self.world.log
        for kind in (_GPULEASE, _LEASED, (API, "GPUProvider"), ("v1", "Event")):
            for stored in self.world.api.objects.get(kind, {}).values():
                text = stored.body.get("status") if kind[0] == API else stored.body
                if any(secret in repr(text) for secret in log.secrets):
                    self.fail(f"a secret is in {kind[1]} {stored.body['metadata']['name']}")

    def changes(self) -> object:
        """What has happened on chain to leases and deployments, to tell a quiet stretch by."""
        fates = sorted((str(f.id), f.closed) for f in self.world.fates.values())
        kept = {"withdraw", "top-up"}
        return fates, sorted((k, v["state"]) for k, v in self.fate.items() if v["kind"] not in kept)

    def quiet(self, writes: list[Write]) -> None:
        """``writes`` are those of a stretch in which nothing happened: moving figures aside there are none."""
        # An Event that is told again after its quiet time counts like a figure.
        # So does the end of a retention time.
        passing = {("patch", "Event"), ("create", "Event"), ("delete", "HostedLease")}
        loud = [w for w in writes if w.actor == "operator" and w.what != "status" and (w.what, w.kind) not in passing]
        if loud:
            self.fail(f"{len(loud)} writes at rest, such as {loud[0]}")
        by_name: dict[str, int] = {}
        for write in writes:
            if write.actor == "operator":
                by_name[write.name] = by_name.get(write.name, 0) + 1
        for name, count in by_name.items():
            if count > self.world.quiet_status_writes:
                self.fail(f"the status of {name} was written {count} times at rest")


def decode_secret(body: dict[str, Any], key: str) -> str:
    return base64.b64decode(body["data"][key]).decode()
