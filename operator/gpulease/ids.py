"""On-chain identities (akash market v1, deployment v1): who ordered what from whom.

String forms are the chain's: ``owner/dseq[/gseq[/oseq[/provider]]]``. ``bseq`` is always 0 on chain today and part
of the id only where the wire format has it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class DeploymentId:
    """``dseq`` is chosen by the tenant, unique per owner."""

    owner: str
    dseq: int

    def __str__(self) -> str:
        return f"{self.owner}/{self.dseq}"

    def group(self, gseq: int) -> GroupId:
        return GroupId(self.owner, self.dseq, gseq)


@dataclass(frozen=True, slots=True, order=True)
class GroupId:
    """``gseq`` counts the deployment's groups from 1."""

    owner: str
    dseq: int
    gseq: int

    def __str__(self) -> str:
        return f"{self.owner}/{self.dseq}/{self.gseq}"

    @property
    def deployment(self) -> DeploymentId:
        return DeploymentId(self.owner, self.dseq)


@dataclass(frozen=True, slots=True, order=True)
class OrderId:
    """``oseq`` is 1 plus the number of closed orders of the group."""

    owner: str
    dseq: int
    gseq: int
    oseq: int

    def __str__(self) -> str:
        return f"{self.owner}/{self.dseq}/{self.gseq}/{self.oseq}"

    @property
    def deployment(self) -> DeploymentId:
        return DeploymentId(self.owner, self.dseq)

    @property
    def group(self) -> GroupId:
        return GroupId(self.owner, self.dseq, self.gseq)

    def bid(self, provider: str) -> LeaseId:
        return LeaseId(self.owner, self.dseq, self.gseq, self.oseq, provider)


@dataclass(frozen=True, slots=True, order=True)
class LeaseId:
    """A bid and the lease it may become share one id."""

    owner: str
    dseq: int
    gseq: int
    oseq: int
    provider: str
    bseq: int = 0

    def __str__(self) -> str:
        return f"{self.owner}/{self.dseq}/{self.gseq}/{self.oseq}/{self.provider}"

    @classmethod
    def parse(cls, text: str) -> LeaseId:
        """From the string form; ``ValueError`` otherwise."""
        parts = text.split("/")
        if len(parts) != 5 or not all(part.isdecimal() for part in parts[1:4]):
            raise ValueError(f"{text!r} is not a lease id of the form owner/dseq/gseq/oseq/provider")
        return cls(parts[0], int(parts[1]), int(parts[2]), int(parts[3]), parts[4])

    @property
    def deployment(self) -> DeploymentId:
        return DeploymentId(self.owner, self.dseq)

    @property
    def group(self) -> GroupId:
        return GroupId(self.owner, self.dseq, self.gseq)

    @property
    def order(self) -> OrderId:
        return OrderId(self.owner, self.dseq, self.gseq, self.oseq)


BidId = LeaseId
