"""gpulease: a Kubernetes cluster sells, and a team buys, GPUs on a Cosmos leasing market."""

__version__ = "0.1.0"
